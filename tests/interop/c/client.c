/* A libmodbus client: client PORT UNIT, a port of TCP, or the path of a serial one (115200 baud, no
 * parity). Each line on stdin is a call: its kind and arguments, a list
 * with its length before it, bytes in hexadecimal. Each line on stdout is the answer, in JSON. */
#include <errno.h>
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE = 16384, MOST = 2100 };

static long number(void) {
    char *word = strtok(NULL, " \n");
    if (word == NULL) {
        fprintf(stderr, "a call has too few arguments\n");
        exit(2);
    }
    return strtol(word, NULL, 10);
}

static void print_bits(const uint8_t *bits, int count) {
    for (int i = 0; i < count; i++)
        printf("%s%d", i ? ", " : "[", bits[i]);
    printf("]\n");
}

static void print_words(const uint16_t *words, int count) {
    for (int i = 0; i < count; i++)
        printf("%s%d", i ? ", " : "[", words[i]);
    printf("]\n");
}

static void print_hex(const uint8_t *bytes, int count) {
    printf("\"");
    for (int i = 0; i < count; i++)
        printf("%02x", bytes[i]);
    printf("\"");
}

/* What errno says: an exception response, its own check, or something else. */
static void print_error(void) {
    int code = errno - MODBUS_ENOBASE;
    if (errno == EMBMDATA)
        printf("\"refused\"\n");
    else if (code >= MODBUS_EXCEPTION_ILLEGAL_FUNCTION && code < MODBUS_EXCEPTION_MAX)
        printf("{\"exception\": %d}\n", code);
    else
        printf("\"%s\"\n", modbus_strerror(errno));
}

static int list_of_bits(uint8_t *bits) {
    int count = (int)number();
    for (int i = 0; i < count && i < MOST; i++)
        bits[i] = (uint8_t)number();
    return count;
}

static int list_of_words(uint16_t *words) {
    int count = (int)number();
    for (int i = 0; i < count && i < MOST; i++)
        words[i] = (uint16_t)number();
    return count;
}

static void server_id(modbus_t *modbus) {
    uint8_t data[MODBUS_MAX_PDU_LENGTH];
    int size = modbus_report_slave_id(modbus, sizeof data, data);
    if (size < 1) {
        print_error();
        return;
    }
    printf("[");
    print_hex(data, size - 1);
    printf(", %s]\n", data[size - 1] == 0xFF ? "true" : "false");
}

/* A request as it stands, and the PDU that comes back. */
static void custom(modbus_t *modbus, int unit) {
    uint8_t request[1 + MODBUS_MAX_PDU_LENGTH] = {(uint8_t)unit}, response[MODBUS_TCP_MAX_ADU_LENGTH];
    int size = 1, header = modbus_get_header_length(modbus), check = header == 1 ? 2 : 0;
    unsigned byte;
    for (char *hex = strtok(NULL, " \n"); hex != NULL && sscanf(hex, "%2x", &byte) == 1; hex += 2)
        request[size++] = (uint8_t)byte;
    if (modbus_send_raw_request(modbus, request, size) == -1 ||
        (size = modbus_receive_confirmation(modbus, response)) == -1) {
        print_error();
    } else if (response[header] & 0x80) {
        printf("{\"exception\": %d}\n", response[header + 1]);
    } else {
        print_hex(response + header, size - header - check);
        printf("\n");
    }
}

/* A read of one of the four tables; whether the kind is one. */
static int read_table(modbus_t *modbus, const char *kind) {
    static uint8_t bits[MOST];
    static uint16_t words[MOST];
    int coils = !strcmp(kind, "read_coils"), inputs = !strcmp(kind, "read_discrete_inputs");
    int holding = !strcmp(kind, "read_holding_registers"), input = !strcmp(kind, "read_input_registers");
    if (!(coils || inputs || holding || input))
        return 0;
    int at = (int)number(), count = (int)number();
    int got = coils     ? modbus_read_bits(modbus, at, count, bits)
              : inputs  ? modbus_read_input_bits(modbus, at, count, bits)
              : holding ? modbus_read_registers(modbus, at, count, words)
                        : modbus_read_input_registers(modbus, at, count, words);
    if (got == -1)
        print_error();
    else if (coils || inputs)
        print_bits(bits, got);
    else
        print_words(words, got);
    return 1;
}

static void print_written(int wanted, int got) {
    if (got == -1)
        print_error();
    else
        printf("%s\n", got == wanted ? "true" : "false");
}

/* A write; whether the kind is one. */
static int write_table(modbus_t *modbus, const char *kind) {
    static uint8_t bits[MOST];
    static uint16_t words[MOST], back[MOST];
    if (!strcmp(kind, "write_coil")) {
        int at = (int)number();
        print_written(1, modbus_write_bit(modbus, at, (int)number()));
    } else if (!strcmp(kind, "write_register")) {
        int at = (int)number();
        print_written(1, modbus_write_register(modbus, at, (uint16_t)number()));
    } else if (!strcmp(kind, "write_coils")) {
        int at = (int)number(), count = list_of_bits(bits);
        print_written(count, modbus_write_bits(modbus, at, count, bits));
    } else if (!strcmp(kind, "write_registers")) {
        int at = (int)number(), count = list_of_words(words);
        print_written(count, modbus_write_registers(modbus, at, count, words));
    } else if (!strcmp(kind, "mask_write")) {
        int at = (int)number();
        uint16_t and_mask = (uint16_t)number(), or_mask = (uint16_t)number();
        print_written(1, modbus_mask_write_register(modbus, at, and_mask, or_mask));
    } else if (!strcmp(kind, "read_write")) {
        int at = (int)number(), count = (int)number(), write_at = (int)number(), size = list_of_words(words);
        int got = modbus_write_and_read_registers(modbus, write_at, size, words, at, count, back);
        if (got == -1)
            print_error();
        else
            print_words(back, got);
    } else {
        return 0;
    }
    return 1;
}

static void answer(modbus_t *modbus, const char *kind, int unit) {
    if (!strcmp(kind, "server_id")) {
        server_id(modbus);
    } else if (!strcmp(kind, "custom")) {
        custom(modbus, unit);
    } else if (!strcmp(kind, "other_unit")) {
        modbus_set_slave(modbus, (int)number());
        read_table(modbus, "read_holding_registers");
        modbus_set_slave(modbus, unit);
    } else if (!read_table(modbus, kind) && !write_table(modbus, kind)) {
        fprintf(stderr, "no such kind: %s\n", kind);
        exit(2);
    }
}

int main(int argc, char **argv) {
    static char line[LINE];
    if (argc != 3)
        return 2;
    int unit = atoi(argv[2]);
    modbus_t *modbus =
        argv[1][0] == '/' ? modbus_new_rtu(argv[1], 115200, 'N', 8, 1) : modbus_new_tcp("127.0.0.1", atoi(argv[1]));
    modbus_set_response_timeout(modbus, 5, 0);
    if (modbus_set_slave(modbus, unit) == -1 || modbus_connect(modbus) == -1) {
        fprintf(stderr, "%s\n", modbus_strerror(errno));
        return 1;
    }
    while (fgets(line, sizeof line, stdin) != NULL)
        answer(modbus, strtok(line, " \n"), unit);
    modbus_close(modbus);
    modbus_free(modbus);
    return 0;
}
