"""Reads the sources of training photos: lines of metadata to records, and records to bytes.

* `record`: Record, Drop, ImageRef, and the parts that all parsers share.
* `lines`: the lines of a metadata file, plain or bzip2.
* `mp16`, `yfcc100m`, `webdataset`: one source each.
* `images`: the bytes of an ImageRef: an entry of `msgpack_images` or `tar_images`, a
  `download`, a file, or a byte range of a tar.
"""
