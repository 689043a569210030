"""pymodbus 3.7.4's asyncio TCP server, the one with the leak: ``pymodbus_leaky_server.py PORT``."""

import asyncio
import sys

from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.server import StartAsyncTcpServer

block = ModbusSequentialDataBlock(0, [0] * 100)
context = ModbusServerContext(slaves=ModbusSlaveContext(hr=block), single=True)
asyncio.run(StartAsyncTcpServer(context, address=("127.0.0.1", int(sys.argv[1]))))
