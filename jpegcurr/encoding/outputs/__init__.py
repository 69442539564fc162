"""The formats that an encode writes: a beton, a folder of images, WebDataset shards, Parquet shards."""
