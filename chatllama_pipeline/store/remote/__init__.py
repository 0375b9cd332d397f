"""Object storage (S3 and the like): versions in a bucket, each published by one conditional put.

`objects` speaks to the bucket; `bucket` knows what stands where in it.
"""
