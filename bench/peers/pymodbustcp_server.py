"""pyModbusTCP's server, a thread for each connection: ``pymodbustcp_server.py PORT``."""

import sys

from pyModbusTCP.server import ModbusServer

ModbusServer(host="127.0.0.1", port=int(sys.argv[1])).start()
