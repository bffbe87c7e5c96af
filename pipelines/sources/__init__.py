"""Where training photos come from: lines of metadata to records, and records to bytes. No Beam.

* `record`: Record, Drop, ImageRef, and the parts that all parsers share.
* `lines`: the lines of a metadata file, plain or bzip2.
* `mp16`, `yfcc100m`, `webdataset`: one source each.
* `images`: the bytes of an ImageRef, by whichever of these routes it takes: `msgpack_images`,
  `download`, a file anywhere, a byte range of a tar.
"""
