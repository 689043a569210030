"use strict";
// A jsmodbus client: node jsmodbus_client.js PORT UNIT, calls on stdin, answers on stdout.
const net = require("net");
const jsmodbus = require("jsmodbus");

const [port, unit] = process.argv.slice(2).map(Number);

const bits = (count) => (body) => body.valuesAsArray.slice(0, count);
const words = (body) => Array.from(body.valuesAsArray);
const identity = (body) => [
    Boolean(body.moreFollows),
    body.nextObjectId,
    Object.fromEntries(body.objects.map((object) => [object.id, object.value.toString()])),
];

// Each kind of step: the call, and its answer in the plan's words.
const calls = (client, elsewhere) => ({
    read_coils: (at, count) => [client.readCoils(at, count), bits(count)],
    read_discrete_inputs: (at, count) => [client.readDiscreteInputs(at, count), bits(count)],
    read_holding_registers: (at, count) => [client.readHoldingRegisters(at, count), words],
    read_input_registers: (at, count) => [client.readInputRegisters(at, count), words],
    write_coil: (at, on) => [client.writeSingleCoil(at, on), () => true],
    write_register: (at, value) => [client.writeSingleRegister(at, value), () => true],
    write_coils: (at, values) => [client.writeMultipleCoils(at, values.map(Boolean)), () => true],
    write_registers: (at, values) => [client.writeMultipleRegisters(at, values), () => true],
    identify: (code, number) => [client.readDeviceIdentification(code, number), identity],
    other_unit: (_, at, count) => [elsewhere.readHoldingRegisters(at, count), words],
});

async function answer(known, [kind, ...args]) {
    try {
        const [response, inWords] = known[kind](...args);
        return inWords((await response).response.body);
    } catch (error) {
        if (error.err === "ModbusException") return { exception: error.response.body.code };
        if (jsmodbus.errors.isInternalException(error)) return "refused"; // its own check, nothing was sent
        return `${error.err}: ${error.message}`;
    }
}

function connect(number) {
    const socket = new net.Socket();
    const client = new jsmodbus.ModbusTCPClient(socket, number, 5000);
    return new Promise((resolve, reject) => {
        socket.once("error", reject);
        socket.connect({ host: "127.0.0.1", port }, () => resolve(client));
    });
}

async function main() {
    const plan = JSON.parse(require("fs").readFileSync(0, "utf8"));
    const other = plan.find(([kind]) => kind === "other_unit");
    const clients = [await connect(unit), await connect(other[1])];
    const known = calls(...clients);
    const found = [];
    for (const call of plan) found.push(await answer(known, call));
    for (const client of clients) client.socket.end();
    console.log(JSON.stringify(found));
}

main();
