"""One client's half of SCRAM-SHA-256, by scramp: a line to standard output for each message, and one from standard input
for each of the server's. Ends with "proved" if the server knows the password, too.

Usage: scram_half.py USER PASSWORD
"""

import sys

from scramp import ScramClient

client = ScramClient(["SCRAM-SHA-256"], *sys.argv[1:])
print(client.get_client_first(), flush=True)
client.set_server_first(sys.stdin.readline().rstrip("\n"))
print(client.get_client_final(), flush=True)
client.set_server_final(sys.stdin.readline().rstrip("\n"))
print("proved", flush=True)
