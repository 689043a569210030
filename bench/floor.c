/* The floor: about the least that a Modbus TCP server on one thread can do, with the same system calls
 * as any other: epoll_wait, recv, send. Holding registers only (03, 06, 10 hex), no limit, no deadline.
 * Usage: floor PORT. Loopback only. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FRAME = 260, EVENTS = 512, ROOM = 8192 };

struct connection {
    int fd, filled;
    unsigned char rest[FRAME];
};

static unsigned char image[2 * 65536 + 512];

static unsigned word(const unsigned char *at) { return (unsigned)at[0] << 8 | at[1]; }

/* Answer one PDU; returns the size of the answer. */
static size_t answer(const unsigned char *pdu, size_t size, unsigned char *to) {
    unsigned at = size >= 5 ? word(pdu + 1) : 0, quantity = size >= 5 ? word(pdu + 3) : 0;
    if (size == 5 && pdu[0] == 3 && quantity >= 1 && quantity <= 125 && at + quantity <= 65536) {
        to[0] = 3;
        to[1] = (unsigned char)(2 * quantity);
        memcpy(to + 2, image + 2 * at, 2 * quantity);
        return 2 + 2 * quantity;
    }
    if (size == 5 && pdu[0] == 6) {
        memcpy(image + 2 * at, pdu + 3, 2);
        memcpy(to, pdu, 5);
        return 5;
    }
    if (size >= 6 && pdu[0] == 16 && quantity >= 1 && quantity <= 123 && pdu[5] == 2 * quantity &&
        size == 6 + 2 * quantity && at + quantity <= 65536) {
        memcpy(image + 2 * at, pdu + 6, 2 * quantity);
        memcpy(to, pdu, 5);
        return 5;
    }
    to[0] = pdu[0] | 0x80;
    to[1] = pdu[0] == 3 || pdu[0] == 6 || pdu[0] == 16 ? 3 : 1;
    return 2;
}

/* Take what has come and answer all of it in one write; 0 when the connection is over. */
static int serve(struct connection *c) {
    unsigned char in[FRAME + ROOM], out[(FRAME + ROOM) / 8 * FRAME];
    size_t at = 0, size, sending = 0;
    memcpy(in, c->rest, (size_t)c->filled);
    ssize_t got = recv(c->fd, in + c->filled, ROOM, 0);
    if (got <= 0)
        return 0;
    size = (size_t)(c->filled + got);
    while (size - at >= 8) {
        size_t length = word(in + at + 4);
        if (word(in + at + 2) || length < 2 || length > 254)
            return 0;
        if (size - at < 6 + length)
            break;
        size_t pdu = answer(in + at + 7, length - 1, out + sending + 7);
        memcpy(out + sending, in + at, 7);
        out[sending + 4] = (unsigned char)((pdu + 1) >> 8);
        out[sending + 5] = (unsigned char)(pdu + 1);
        sending += 7 + pdu;
        at += 6 + length;
    }
    c->filled = (int)(size - at);
    memcpy(c->rest, in + at, (size_t)c->filled);
    return !sending || send(c->fd, out, sending, MSG_NOSIGNAL) == (ssize_t)sending;
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)(argc > 1 ? atoi(argv[1]) : 0))};
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN};
    struct rlimit files;
    int listener = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0), one = 1;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 1024) < 0) {
        perror("listen");
        return 1;
    }
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) {
                c = calloc(1, sizeof *c);
                event.data.ptr = c;
                c->fd = accept(listener, NULL, NULL);
                setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &event);
            } else if (!serve(c)) {
                close(c->fd);
                free(c);
            }
        }
    }
}
