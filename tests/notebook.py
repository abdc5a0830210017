"""The Python example of the README, which `test_python.py` runs beside two photos and an embeddings file."""

# README
import swancli

encoder = swancli.Encoder("shipped")  # or a best.pt, or a run
images = encoder.images(["a.jpg", "b.jpg"])  # paths, PIL images or uint8 arrays -> float32 (2, D)
captions = encoder.captions(["many boats docked at a harbor", "two tennis courts"])
print(swancli.recall(images @ captions.T, image_of_caption=[0, 1]))  # the table of `swan eval`

search = swancli.open_search("embeddings.h5")  # what `swan embed` wrote
print(search("two tennis courts", top_k=3))  # a pandas table: rank, score, path, scene, caption
vectors = search.embeddings.to_frame()  # filename, scene, split and embedding of every image
