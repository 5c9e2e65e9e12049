"""Adjustments for which aiortc has no setting: gathering of candidates, buffers of sockets."""

import contextlib
import socket
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from aiortc import RTCPeerConnection

# In seconds: a STUN server that answered a probe of ours within 0.3 s has answered by then.
GATHER_S: Final = 1.0
# In bytes of a socket's receive buffer; the kernel may grant less (net.core.rmem_max). A machine
# sends faster than aiortc reads. What does not fit is lost, and sent again a second later.
RECEIVE_BUFFER_BYTES: Final = 4 << 20


def tune(peer: "RTCPeerConnection") -> None:
    """Bound the gathering of candidates by `GATHER_S`; without a network, gather on loopback.

    Gathering asks the STUN server from every interface, and waits 5 s for all answers. An interface
    without a route to the server, such as a container bridge, would otherwise delay each
    connection. The embedded cloud is reachable without any network. The sockets get a larger
    receive buffer.
    """
    transport = peer.sctp and peer.sctp.transport.transport
    ice: Any = getattr(transport, "_connection", None)
    gather = getattr(ice, "get_component_candidates", None)
    if gather is None:
        return

    async def gather_bounded(component: int, addresses: list[str]) -> Any:
        found = await gather(component, addresses or ["127.0.0.1"], timeout=GATHER_S)
        for protocol in getattr(ice, "_protocols", ()):
            if (opened := protocol.transport.get_extra_info("socket")) is not None:
                with contextlib.suppress(OSError):
                    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        return found

    ice.get_component_candidates = gather_bounded


def received_bytes(peer: "RTCPeerConnection") -> int:
    """Return how many bytes arrived on a connection; 0 where aiortc does not tell."""
    get_stats = getattr(peer.sctp and peer.sctp.transport, "_get_stats", None)
    stats = get_stats().values() if get_stats is not None else ()
    return sum(getattr(each, "bytesReceived", 0) for each in stats)
