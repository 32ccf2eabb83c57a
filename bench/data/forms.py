"""How data is asked for: the forms of a data spec, and the splits."""

from __future__ import annotations

# The share of the pictures in each: from where to where, of 1.
SPLITS = {"train": (0.0, 0.7), "validation": (0.7, 0.9), "test": (0.9, 1.0), "all": (0.0, 1.0)}

DATA_FORMS: dict[str, str] = {
    "hands[:COUNT]": "embedded rock, paper and scissors hands with masks; 1000, or COUNT",
    "folder:PATH": "a folder with one subfolder of pictures a class, or of pictures without labels",
    "archive:FILE": "a zip or tar of such a folder, e.g. a Kaggle data set downloaded by hand",
    "csv:PATH": "a table with the columns path, label and, if images belong together, group; paths "
    "are relative to it",
    "kaggle:owner/name": "a Kaggle data set (pip install 'steadymap[kaggle]')",
    "torchvision:NAME[:ROOT]": "a data set of torchvision, e.g. torchvision:CIFAR10; downloaded "
    "once, its own test set is the test split",
    "hf:ID": "a data set of the Hugging Face hub, or its folder (pip install 'steadymap[hf]')",
    "foolbox": "20 labelled ImageNet photographs, nothing to download; use split all "
    "(pip install 'steadymap[photos]')",
}
