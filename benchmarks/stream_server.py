"""A server of streams for gateway_cost.py: python stream_server.py PORT EVENTS INTERVAL_MS."""

import asyncio
import sys
import time
from contextlib import suppress


async def serve(port: int, events: int, interval_s: float) -> None:
    """A server of streams, each event with the time at which it was written."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            else:
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                await _events(writer, events, interval_s)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


async def _events(writer: asyncio.StreamWriter, events: int, interval_s: float) -> None:
    """Each on its own time, whatever the one before took."""
    start = time.monotonic()
    for number in range(events):
        await asyncio.sleep(max(0.0, start + number * interval_s - time.monotonic()))
        event = (
            f'data: {{"sent": {time.monotonic():.7f}, "choices": [{{"delta": {{"content": "word"}}}}]}}\n\n'
        )
        writer.write(f"{len(event):x}\r\n{event}\r\n".encode())
        await writer.drain()
    writer.write(b"0\r\n\r\n")


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000))
