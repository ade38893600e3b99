"""The reference implementation's MSCOCO folder::

    val2017/*.jpg
    images_captions.csv    file_name,caption

Indexed is `val2017/`; ids are file names. The reference takes a tenth of the rows with seed 42: ``sample=.1, seed=42``
takes the very same ones, as long as every row can be used; the default is all.
"""

from warmer.bench.datasets.captioned import TableLayout
from warmer.bench.datasets.tables import Wanted

LAYOUT = TableLayout(
    kind="mscoco",
    tables=("images_captions.csv", "captions.csv"),
    table_folders=(".",),
    image_folders=("val2017", "images", "val2014", "train2017", "."),
    exact=Wanted(("file_name",), ("caption",)),
    wanted=Wanted(("file_name", "image_name", "image"), ("caption", "comment")),
    looked_for="images_captions.csv with the columns file_name and caption",
)
