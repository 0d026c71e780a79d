"""Files of object stores and servers, named by addresses such as ``s3://bucket/videos/a.mp4``.

``addresses`` knows which names are addresses, ``transfer`` moves bytes and tries again, ``cache``
keeps what was fetched, ``videos`` and ``output`` are what commands use. The libraries behind the
schemes belong to an extra; nothing of them is imported before the first address is met.
"""
