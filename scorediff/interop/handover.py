"""Two functions that call one another, each from within: one of them runs in another thread."""

import weakref
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread, current_thread
from typing import Any

__all__ = ["Handover"]


class Handover:
    """A function `body(ask)` in another thread that may ask its caller; one works while the other waits.

    A thread, since bodies call the denoiser from the depths of other libraries (torchdiffeq, torchsde), out of which a
    generator cannot yield; a greenlet could, but would share what torch keeps per thread, such as the grad mode that a
    run sets while it lasts. The thread ends with the body, on `close`, and when this object is collected.
    """

    def __init__(self, body: Callable[[Callable[[Any], Any]], Any]) -> None:
        answers: SimpleQueue[Any] = SimpleQueue()
        said: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        # a daemon: a program that ends half-way through a run is not held up
        thread = Thread(target=_work, args=(body, answers, said), name="scorediff-run", daemon=True)
        self._answers, self._said = answers, said
        self.close: Callable[[], Any] = weakref.finalize(self, _abandon, thread, answers)
        thread.start()

    def listen(self) -> tuple[bool, Any]:
        """`(True, result)` at the body's end, `(False, question)` before; raises what the body raised."""
        kind, value = self._said.get()
        if kind == _RAISED:
            raise value
        return kind == _RETURNED, value

    def answer(self, answer: Any) -> tuple[bool, Any]:
        """Answer, then listen."""
        self._answers.put(answer)
        return self.listen()


_ASKED, _RETURNED, _RAISED = "asked", "returned", "raised"
_GONE = object()


class _Abandoned(BaseException):
    """Nobody will answer: not an Exception, which a body might handle."""


def _work(body: Callable[[Callable[[Any], Any]], Any], answers: SimpleQueue[Any], said: SimpleQueue[Any]) -> None:
    def ask(question: Any) -> Any:
        said.put((_ASKED, question))
        answer = answers.get()
        if answer is _GONE:
            raise _Abandoned
        return answer

    try:
        said.put((_RETURNED, body(ask)))
    except _Abandoned:
        pass
    except BaseException as error:
        said.put((_RAISED, error))


def _abandon(thread: Thread, answers: SimpleQueue[Any]) -> None:
    answers.put(_GONE)
    if thread is not current_thread():  # the collector runs in any thread
        thread.join(timeout=1.0)
