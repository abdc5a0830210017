"""The Python example of the README, and what its sections say further; `test_python.py` runs it whole."""

import swancli

encoder = swancli.Encoder("shipped")  # or the path of a best.pt
images = encoder.images(["path/to/photos/1.jpg", "path/to/photos/2.jpg"])  # float32 (2, 256)
captions = encoder.captions(["many boats docked at a harbor", "a road with trees"])
print(swancli.recall(images @ captions.T, [0, 1]))  # caption 0 describes image 0, caption 1 image 1

search = swancli.open_search("swan-data/shipped/embeddings-photos.h5")  # from `swan embed --images`
print(search("two tennis courts", top_k=10))  # a pandas table: rank, score, path, scene, caption

from swancli.console import Display  # noqa: E402

vectors = search.embeddings.to_frame()  # filename, scene, split and embedding of every image
with Display().progress() as progress:  # a bar, in a terminal and in a notebook
    again = encoder.images(vectors.filename.map("path/to/photos/{}".format), progress)
