"""The admin face: what the operator's command asks the running service, over a Unix socket.

``socket``
    The socket: who may connect, and what a dead process left.
``site``
    The HTTP server on it: from the first segments of a path to a face.
``application``
    Klein for faces. A method of a face gets an ``Ask`` and gives a document, which is answered as JSON; or it is also
    given a ``Progress``, to tell how far it is.
``ask``, ``answers``, ``progress``
    The arguments of a request; documents, and errors as ``{"error": "..."}``; one JSON object per line.

A face is mounted under its name, ``/v1/<name>``, by the service.
"""
