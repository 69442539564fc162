"""Names that mean splits, in folders, shards, tables and hubs."""

import re

# The names of splits, in lower case: of a folder as a whole, of a word in a shard's name, of a cell, of a hub's split.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# Words that mean a split within the name of a folder, such as ``seg_train``. Alone they prove nothing (``bullet_train``).
_WORDS = SPLIT_NAMES | {
    "trainset": "train",
    "traindata": "train",
    "trainval": "train",
    "valset": "val",
    "valdata": "val",
    "testset": "test",
    "testdata": "test",
}


def split_in_name(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the split that one word of ``name`` means, and its other words: ``seg_train`` -> ``("train", ("seg",))``.

    Words are runs of letters, and begin at capitals too: ``TrainImages``. None if no word means a split, or several do.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [word.lower() for word in re.findall(r"[^\W\d_]+", spaced)]
    splits = [_WORDS[word] for word in words if word in _WORDS]
    return (splits[0], tuple(word for word in words if word not in _WORDS)) if len(splits) == 1 else None
