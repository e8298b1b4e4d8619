"""The public data sets that the tasks take: who publishes which files, how large they are, under which licence.

Checksums are md5, as their publishers and public loaders state them; `stated` says where. Where nobody states any, what
was got first is what later files are compared with (`get`).
"""

from __future__ import annotations

from dataclasses import dataclass

MNIST_HOSTS = ("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/")
FASHION_HOSTS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
ZENKE_HOSTS = ("https://zenkelab.org/datasets/",)
FSDD_HOSTS = ("https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/",)

DIGITS, TAKES = 10, 50  # of the Free Spoken Digit Dataset
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
RECORDINGS = tuple(f"{digit}_{who}_{take}.wav" for digit in range(DIGITS) for who in SPEAKERS for take in range(TAKES))


@dataclass(frozen=True)
class Published:
    """A file as it is published.

    name       as it is called at every one of the hosts
    size       bytes of what is transferred, nearly: more than twice as many are not taken
    md5        of what is transferred; "" where it is made on demand
    contents   md5 of what it unpacks to, where that is stated; files that were packed anew are the same
    members    of a zip file: the last names of the members that are kept; (): the file itself is
    """

    name: str
    size: int
    md5: str = ""
    contents: str = ""
    members: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[str, ...]:
        """The files that stay of it."""
        return self.members or (self.name,)


@dataclass(frozen=True)
class DataSet:
    """A data set: its files, and what is to be known before they are got.

    hosts     addresses that a file's name is put behind: the next one is asked where one does not answer
    stated    who states the checksums
    digest    of all members' names and contents, where the archive is made on demand (`get.digest_of`)
    """

    title: str
    licence: str
    hosts: tuple[str, ...]
    files: tuple[Published, ...]
    stated: str
    digest: str = ""


DATA_SETS = {
    "mnist": DataSet(
        "MNIST: 70,000 images of handwritten digits, 28 x 28 (LeCun, Cortes & Burges)",
        "no licence is stated; CC BY-SA 3.0 by several who pass it on",
        MNIST_HOSTS,
        (
            Published(
                "train-images-idx3-ubyte.gz",
                9_912_422,
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "6bbc9ace898e44ae57da46a324031adb",
            ),
            Published(
                "train-labels-idx1-ubyte.gz",
                28_881,
                "d53e105ee54ea40749a09fcbcd1e9432",
                "a25bea736e30d166cdddb491f175f624",
            ),
            Published(
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "9fb629c4189551a2d022fa330f9573f3",
                "2646ac647ad5339dbf082846283269ea",
            ),
            Published(
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                "ec29112dd5afa0611ce80d1b7f02629c",
                "27ae3e4e09519cfbb04c329615203637",
            ),
        ),
        "torchvision and other public loaders",
    ),
    "fashion_mnist": DataSet(
        "Fashion-MNIST: 70,000 images of clothes, 28 x 28 (Xiao, Rasul & Vollgraf 2017)",
        "MIT",
        FASHION_HOSTS,
        (
            Published("train-images-idx3-ubyte.gz", 26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            Published("train-labels-idx1-ubyte.gz", 29_515, "25c81989df183df01b3e8a0aad5dffbe"),
            Published("t10k-images-idx3-ubyte.gz", 4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
            Published("t10k-labels-idx1-ubyte.gz", 5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
        "its repository's README",
    ),
    "fsdd": DataSet(
        "Free Spoken Digit Dataset 1.0.10: 3,000 recordings of ten digits by six speakers (Jackson et al.)",
        "CC BY-SA 4.0: name its authors, and share what you derive from it alike",
        FSDD_HOSTS,
        (Published("v1.0.10.zip", 16_000_000, members=RECORDINGS),),
        "nobody, the archive is made on demand: its 3,000 files are compared with those of the release",
        digest="dbd573d7cafe79c4b49f65718115e1304e24e067fa39eff18a660dc6cb9c360f",
    ),
    "shd": DataSet(
        "Spiking Heidelberg Digits: 10,420 spoken digits as spikes in 700 channels (Cramer et al. 2022)",
        "CC BY 4.0: name its authors",
        ZENKE_HOSTS,
        (
            Published("shd_train.h5.zip", 130_000_000, "f3252aeb598ac776c1b526422d90eecb", members=("shd_train.h5",)),
            Published("shd_test.h5.zip", 40_000_000, "1503a5064faa34311c398fb0a1ed0a6f", members=("shd_test.h5",)),
        ),
        "tonic and SpikingJelly",
    ),
    "ssc": DataSet(
        "Spiking Speech Commands: 105,829 spoken words as spikes in 700 channels (Cramer et al. 2022)",
        "CC BY 4.0: name its authors",
        ZENKE_HOSTS,
        (
            Published("ssc_train.h5.zip", 1_000_000_000, "d102be95e7144fcc0553d1f45ba94170", members=("ssc_train.h5",)),
            Published("ssc_valid.h5.zip", 130_000_000, "b4eee3516a4a90dd0c71a6ac23a8ae43", members=("ssc_valid.h5",)),
            Published("ssc_test.h5.zip", 270_000_000, "a35ff1e9cffdd02a20eb850c17c37748", members=("ssc_test.h5",)),
        ),
        "tonic and SpikingJelly",
    ),
}
