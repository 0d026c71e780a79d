"""What a backend learns when it is asked whether it reads a video."""


class Probe:
    """The result of a backend's check, handed on to its first read of the video.

    A backend whose check is dear keeps what it made in a subclass, so that the read can use it.
    """
