/* A libmodbus server: server ITEMS [PATH]. It prints its port, and answers every connection in turn, from
 * tables with the content of the plan; with a path it is unit 1 on that serial port, and prints the path. */
#include <arpa/inet.h>
#include <errno.h>
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/select.h>
#include <unistd.h>

static modbus_mapping_t *filled(int items) {
    modbus_mapping_t *mapping = modbus_mapping_new(items, items, items, items);
    for (int n = 0; mapping != NULL && n < items; n++) {
        mapping->tab_bits[n] = n % 3 == 0;
        mapping->tab_input_bits[n] = n % 5 < 2;
        mapping->tab_registers[n] = (uint16_t)(n * 3 + 1);
        mapping->tab_input_registers[n] = (uint16_t)(n * 7 + 2);
    }
    return mapping;
}

static int port_of(int listener) {
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    getsockname(listener, (struct sockaddr *)&address, &size);
    return ntohs(address.sin_port);
}

/* One request of a connection; whether it stays. */
static int serve(modbus_t *modbus, modbus_mapping_t *mapping, int connection) {
    uint8_t request[MODBUS_TCP_MAX_ADU_LENGTH];
    modbus_set_socket(modbus, connection);
    int size = modbus_receive(modbus, request);
    if (size > 0)
        modbus_reply(modbus, request, size, mapping);
    return size != -1;
}

static int failed(void) {
    fprintf(stderr, "%s\n", modbus_strerror(errno));
    return 1;
}

/* It sleeps so long before some exceptions. */
static void be_quick(modbus_t *modbus) {
    modbus_set_response_timeout(modbus, 0, 1000);
}

static int serve_line(const char *path, modbus_mapping_t *mapping) {
    modbus_t *modbus = modbus_new_rtu(path, 115200, 'N', 8, 1);
    if (modbus == NULL || modbus_set_slave(modbus, 1) == -1 || modbus_connect(modbus) == -1)
        return failed();
    be_quick(modbus);
    puts(path);
    fflush(stdout);
    for (;;) {
        uint8_t request[MODBUS_RTU_MAX_ADU_LENGTH];
        int size = modbus_receive(modbus, request);
        if (size > 0)
            modbus_reply(modbus, request, size, mapping);
    }
}

static int serve_tcp(modbus_mapping_t *mapping) {
    modbus_t *modbus = modbus_new_tcp("127.0.0.1", 0);
    int listener = modbus_tcp_listen(modbus, 16), most = listener;
    if (listener == -1)
        return failed();
    be_quick(modbus);
    printf("%d\n", port_of(listener));
    fflush(stdout);
    fd_set all;
    FD_ZERO(&all);
    FD_SET(listener, &all);
    for (;;) {
        fd_set ready = all;
        if (select(most + 1, &ready, NULL, NULL, NULL) == -1)
            return 1;
        for (int fd = 0; fd <= most; fd++) {
            if (!FD_ISSET(fd, &ready))
                continue;
            if (fd == listener) {
                int connection = modbus_tcp_accept(modbus, &listener);
                if (connection >= FD_SETSIZE) {
                    close(connection);
                } else if (connection != -1) {
                    FD_SET(connection, &all);
                    most = connection > most ? connection : most;
                }
            } else if (!serve(modbus, mapping, fd)) {
                close(fd);
                FD_CLR(fd, &all);
            }
        }
    }
}

int main(int argc, char **argv) {
    modbus_mapping_t *mapping = argc > 1 ? filled(atoi(argv[1])) : NULL;
    if (mapping == NULL)
        return failed();
    return argc > 2 ? serve_line(argv[2], mapping) : serve_tcp(mapping);
}
