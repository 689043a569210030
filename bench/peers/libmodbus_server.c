/* A libmodbus server for many connections, as its documentation has it: select, receive, reply.
 * Usage: libmodbus_server PORT. Loopback only; at most FD_SETSIZE connections. */
#include <errno.h>
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/select.h>
#include <unistd.h>

int main(int argc, char **argv) {
    modbus_t *link = modbus_new_tcp("127.0.0.1", argc > 1 ? atoi(argv[1]) : 0);
    modbus_mapping_t *image = modbus_mapping_new(2048, 2048, 4096, 4096);
    int listener = link ? modbus_tcp_listen(link, 1024) : -1, highest = listener;
    fd_set watched;
    if (listener < 0 || !image) {
        fprintf(stderr, "cannot listen: %s\n", modbus_strerror(errno));
        return 1;
    }
    FD_ZERO(&watched);
    FD_SET(listener, &watched);
    for (;;) {
        fd_set ready = watched;
        if (select(highest + 1, &ready, NULL, NULL, NULL) < 0)
            return 1;
        for (int fd = 0; fd <= highest; fd++) {
            unsigned char query[MODBUS_TCP_MAX_ADU_LENGTH];
            if (!FD_ISSET(fd, &ready))
                continue;
            if (fd == listener) {
                int taken = modbus_tcp_accept(link, &listener);
                if (taken >= FD_SETSIZE) {
                    close(taken);
                } else if (taken >= 0) {
                    FD_SET(taken, &watched);
                    highest = taken > highest ? taken : highest;
                }
                continue;
            }
            modbus_set_socket(link, fd);
            int size = modbus_receive(link, query);
            if (size > 0)
                size = modbus_reply(link, query, size, image);
            if (size < 0) {
                close(fd);
                FD_CLR(fd, &watched);
            }
        }
    }
}
