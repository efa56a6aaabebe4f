"""supervisor's event listener of the workbench: when one part exits, it tells supervisor to stop all parts."""

import os
import signal
import sys

from supervisor import childutils

if __name__ == "__main__":
    _, payload = childutils.listener.wait()
    part = childutils.get_headers(payload)["processname"]
    print(part, file=sys.stderr, flush=True)
    childutils.listener.ok()
    os.kill(os.getppid(), signal.SIGTERM)
    childutils.listener.wait()  # until supervisor stops this listener as well, the last by its priority
