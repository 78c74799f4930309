"""Work on documents that takes long or needs pycrdt, in worker processes. The only importer of pycrdt."""
