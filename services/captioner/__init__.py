"""The captioner: says in a sentence what is to be seen on an image. It knows no collection."""
