"""The reference implementation's Flickr30k folder, and what Kaggle and the dataset's authors hand out::

    flickr30k_images/*.jpg     or images/, Images/, flickr30k-images/
    images_captions.csv        image_name,comment
      or results.csv           image_name| comment_number| comment
      or captions.txt          image_name,comment_number,comment
      or results_20130124.token    1000092795.jpg#0<tab>Two young guys ...

Indexed is the folder of the images; ids are file names. Flickr8k in the same files fits as well.
"""

from warmer.bench.datasets.captioned import TableLayout
from warmer.bench.datasets.tables import Wanted

LAYOUT = TableLayout(
    kind="flickr30k",
    tables=("images_captions.csv", "results.csv", "captions.csv", "captions.txt", "*.token", "*.token.txt"),
    table_folders=(".", "flickr30k_images", "flickr30k"),
    image_folders=(
        "flickr30k_images/flickr30k_images",  # the archive of Kaggle unpacks like that
        "flickr30k_images",
        "flickr30k-images",
        "images",
        "Images",
        ".",
    ),
    exact=Wanted(("image_name",), ("comment",)),
    wanted=Wanted(("image_name", "image"), ("comment", "caption")),
    looked_for="images_captions.csv, results.csv or captions.txt with the columns image_name and comment, or *.token",
)
