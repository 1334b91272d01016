"""Named places where a test stops this process from outside, to kill it there or to let it sleep through a change."""

import os
import signal


def reach(step: str) -> None:
    """Stop this process (SIGSTOP), once, if `BLOOM_SYNC_FAILPOINT` names `step` and `BLOOM_SYNC_FAILPOINTS` is 1.

    Whoever started it sees the stop by `waitpid(WUNTRACED)`, then kills it or lets it go on (SIGCONT).
    """
    if os.environ.get("BLOOM_SYNC_FAILPOINT") == step and os.environ.get("BLOOM_SYNC_FAILPOINTS") == "1":
        del os.environ["BLOOM_SYNC_FAILPOINT"]
        os.kill(os.getpid(), signal.SIGSTOP)
