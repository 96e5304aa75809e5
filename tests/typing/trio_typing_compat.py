"""A program annotated with `trio_typing`, where the extra `typing` is installed: the broker works there as anywhere.

Run by tests/house/test_typing.py in an environment of its own. It prints what came back.
"""

from __future__ import annotations

import trio
import trio_typing

from trio_acebroker import Broker, BrokerConfig
from trio_acebroker.config import Listener


async def child(*, task_status: trio_typing.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
    """A task whose author uses trio_typing's name for what Trio passes."""
    task_status.started(7)


async def main() -> None:
    """Start a child, and a broker, in one nursery."""
    broker = Broker(BrokerConfig(listeners=(Listener(port=0),)))
    async with trio.open_nursery() as nursery:
        number = await nursery.start(child)
        ((host, port),) = await nursery.start(broker.serve)
        async with await trio.open_tcp_stream(host, port) as stream:
            await stream.send_all(bytes.fromhex("100c00044d515454040200000000"))
            answer = await stream.receive_some(4)
        nursery.cancel_scope.cancel()
    print(number, answer.hex())


if __name__ == "__main__":
    trio.run(main)
