"""Streams: data sets in LitData's shards, with an index of ours; how they are written, read and gone through."""
