"use strict";
// A modbus-serial client over TCP: node modbus_serial_client.js PORT UNIT, calls on stdin, answers on stdout.
const ModbusRTU = require("modbus-serial");

const [port, unit] = process.argv.slice(2).map(Number);

const numbers = (count) => (found) => found.data.slice(0, count).map(Number);
const words = (found) => Array.from(found.data);
const yes = () => true;

// Each kind of step: the call, and its answer in the plan's words.
const calls = (client) => ({
    read_coils: (at, count) => [client.readCoils(at, count), numbers(count)],
    read_discrete_inputs: (at, count) => [client.readDiscreteInputs(at, count), numbers(count)],
    read_holding_registers: (at, count) => [client.readHoldingRegisters(at, count), words],
    read_input_registers: (at, count) => [client.readInputRegisters(at, count), words],
    write_coil: (at, on) => [client.writeCoil(at, on), yes],
    write_register: (at, value) => [client.writeRegister(at, value), yes],
    write_coils: (at, values) => [client.writeCoils(at, values.map(Boolean)), yes],
    write_registers: (at, values) => [client.writeRegisters(at, values), yes],
    mask_write: (at, and, or) => [client.maskWriteRegister(at, and, or), yes],
    read_write: (at, count, writeAt, values) => [
        client.readWriteRegisters(at, count, writeAt, values.length, values),
        words,
    ],
    server_id: () => [
        client.reportServerID(0, 0),
        (found) => [found.serverId, found.running, found.additionalData.toString("hex")],
    ],
    read_file: ([[file, record]]) => [
        client.readFileRecords(file, record),
        (found) => [Buffer.from(found.data.slice(0, -2)).toString("hex")], // the last two are the CRC it made up
    ],
    identify_all: (code) => [client.readDeviceIdentification(code, 0), (found) => found.data],
    custom: (pdu) => {
        const [code, ...data] = Buffer.from(pdu, "hex");
        return [
            client.customFunction(code, data),
            (found) => Buffer.from([code, ...found.data]).toString("hex"),
        ];
    },
    other_unit: (other, at, count) => {
        client.setID(other);
        return [client.readHoldingRegisters(at, count), words];
    },
});

async function answer(client, [kind, ...args]) {
    client.setID(unit);
    try {
        const [response, inWords] = calls(client)[kind](...args);
        return inWords(await response);
    } catch (error) {
        return error.modbusCode === undefined ? `${error.name}: ${error.message}` : { exception: error.modbusCode };
    }
}

async function main() {
    const client = new ModbusRTU();
    await client.connectTCP("127.0.0.1", { port });
    client.setTimeout(5000);
    const found = [];
    for (const call of JSON.parse(require("fs").readFileSync(0, "utf8"))) found.push(await answer(client, call));
    client.close(() => {});
    console.log(JSON.stringify(found));
}

main();
