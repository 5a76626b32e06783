"""Upstreams: how depproxy speaks to a registry. The only package that uses treq and twisted.web.client.

``interface`` and ``errors`` are what others see; ``client.make_upstream`` builds a ``RegistryClient``, and
``upstreams`` has them all, with the credentials of groups. Below that, from the question down to the wire:

``client``
    The questions of the distribution-spec and what their answers must be; ``answers`` reads the headers.
``exchange``
    One question: permit, authorization, one more try after a 401, retries (``retry``), rate limits
    (``ratelimit``).
``auth``
    Challenge and token: ``tokens`` asks the token endpoint, ``credentials`` says what may be sent where.
``http``
    treq, and what an answer that is no success means.
``agent``
    Below treq: the pool, limits of time, and redirects, whose URLs are kept byte for byte (``redirects``);
    ``connect`` finds the way, ``failures`` explains why it failed.
``body``
    A body as a stream with backpressure.
``waiting``
    Limits of time, permits, and one run for many waiters.
"""
