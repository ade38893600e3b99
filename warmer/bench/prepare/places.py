"""Where the files of the datasets are to be had: names of pages and of files, in words, because addresses move."""

KARPATHY = (
    "Karpathy's splits are in caption_datasets.zip on the Stanford page of 'Deep Visual-Semantic Alignments for "
    "Generating Image Descriptions', and on Kaggle as 'karpathy-splits' by shtvkumar."
)
FLICKR30K_IMAGES = (
    "The photos are in the Kaggle datasets 'flickr-image-dataset' by hsankesara and 'flickr30k' by eeshawn, and, on "
    "request, in flickr30k-images.tar.gz from the Flickr 30k page of the University of Illinois."
)
FLICKR30K_CAPTIONS = (
    "results.csv is in the Kaggle dataset 'flickr-image-dataset' by hsankesara, captions.txt in 'flickr30k' by "
    "eeshawn, and results_20130124.token in flickr30k.tar.gz from the Flickr 30k page of the University of Illinois."
)
COCO_IMAGES = (
    "The photos are in val2017.zip ('2017 Val images') on the download page of the COCO dataset, and in the Kaggle "
    "dataset 'coco-2017-dataset' by awsaf49."
)
COCO_2014_IMAGES = (
    "The photos of Karpathy's splits are in train2014.zip and val2014.zip on the download page of the COCO dataset; "
    "those of the 2017 release are the same under other names."
)
COCO_CAPTIONS = (
    "captions_val2017.json is in annotations_trainval2017.zip ('2017 Train/Val annotations') on the download page of "
    "the COCO dataset, and in the Kaggle dataset 'coco-2017-dataset' by awsaf49."
)
MSRVTT_VIDEOS = (
    "The videos are in MSRVTT.zip, to which the repository of 'Frozen in Time' (m-bain) links; frames that another "
    "tool has made may lie in folders named by video."
)
MSRVTT_CAPTIONS = (
    "MSRVTT_JSFUSION_test.csv and MSRVTT_data.json are in msrvtt_data.zip, among the releases of CLIP4Clip (ArrowLuo)."
)
