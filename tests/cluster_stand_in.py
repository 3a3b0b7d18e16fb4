"""A stand-in for Ray: threads that answer in any order, some of which end without an answer."""

import itertools
import pickle
import random
import threading
import time
from concurrent.futures import Future

from mien.data import cluster


class StandIn:
    """Threads in the place of Ray's workers; those with a number in `lose` do their work and end without an answer."""

    def __init__(self, slots: int = 2, lose: tuple[int, ...] = (), always: str = "") -> None:
        self.workers, self.lose, self.always = slots, lose, always
        self.count, self.random, self.under_way, self.most = itertools.count(), random.Random(0), 0, 0

    def slots(self) -> int:
        return self.workers

    def submit(self, function, group):
        number, future, delay = next(self.count), Future(), self.random.random() / 200
        job, sent = pickle.dumps(function), pickle.dumps(group)
        self.under_way += 1
        self.most = max(self.most, self.under_way)

        def work() -> None:
            time.sleep(delay)
            answer = pickle.loads(job)(pickle.loads(sent))
            self.under_way -= 1
            if not future.set_running_or_notify_cancel():
                return
            if number in self.lose or (self.always and self.always in str(group)):
                future.set_exception(cluster.Lost("the worker ended"))
            else:
                future.set_result(answer)

        threading.Thread(target=work, daemon=True).start()
        return future
