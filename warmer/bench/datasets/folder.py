"""Any folder of images with a table of captions: ``image,caption``, other usual names, or columns that are named.

Image names are paths relative to the folder that is indexed: the folder itself, `images/` in it or another folder
directly below, whichever comes first under which one of the names is found.
"""

from warmer.bench.datasets.captioned import ANY, TableLayout
from warmer.bench.datasets.tables import Wanted

_COLUMNS = Wanted(
    ("image", "image_name", "file_name", "filename", "file", "path", "image_path", "img"),
    ("caption", "comment", "text", "sentence", "description"),
)

LAYOUT = TableLayout(
    kind="folder",
    tables=("captions.*", "images_captions.*", "metadata.*", "labels.*", "*.csv", "*.tsv", "*.token", "*.token.txt"),
    table_folders=(".",),
    image_folders=(".", "images", ANY),
    exact=_COLUMNS,
    wanted=_COLUMNS,
    looked_for="a CSV or TSV file with the columns image and caption",
)
