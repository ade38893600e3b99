"""The embedder: keeps collections of images, embeds texts and images into one space, and searches it."""
