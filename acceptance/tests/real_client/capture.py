"""Writes all that crosses an interface to a file, until a last word of the test has crossed it too.

Says `ready` when it listens, and at its end how many packets the kernel could not keep for it.

arguments: INTERFACE FILE LAST-WORD
"""

import socket
import struct
import sys

ALL_PROTOCOLS = 3
FORCED_BUFFER = 33  # SO_RCVBUFFORCE
SOL_PACKET, PACKET_STATISTICS = 263, 6
# More than a packet has that the network card, or what stands for it, would cut into pieces.
PACKET_MOST = 1 << 20

interface, path, last = sys.argv[1], sys.argv[2], sys.argv[3].encode()
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(ALL_PROTOCOLS))
wire.setsockopt(socket.SOL_SOCKET, FORCED_BUFFER, 1 << 28)
wire.bind((interface, 0))
print("ready", flush=True)
with open(path, "wb") as file:
    packet = b""
    while last not in packet:
        packet = wire.recv(PACKET_MOST)
        file.write(packet)
_, lost = struct.unpack("II", wire.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
print(lost, flush=True)
