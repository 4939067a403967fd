"""What a server answers instead of a prediction: a status and one sentence."""


class Refused(Exception):
    """A request that gets an answer of its own.

    Args:
        status: of HTTP.
        sentence: what was expected, what came and what to do; nothing about this machine.
        headers: more of the answer's.
    """

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None):
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, headers or {}


def busy(what: str, seconds: int = 1) -> Refused:
    """503 with Retry-After.

    Args:
        what: is full, for the sentence.
        seconds: after which to come again.
    """
    sentence = f"Expected room for this request, but {what}; send it again in {seconds} s."
    return Refused(503, sentence, {"Retry-After": str(seconds)})
