/* Closed-loop load on one Modbus TCP server: so many connections with one read of holding
 * registers in flight each, every answer compared byte for byte.
 * Usage: load PORT CONNECTIONS REGISTERS SECONDS; prints requests a second. Loopback only. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: load PORT CONNECTIONS REGISTERS SECONDS\n");
        return 2;
    }
    int port = atoi(argv[1]), connections = atoi(argv[2]), registers = atoi(argv[3]);
    double seconds = atof(argv[4]);
    unsigned char request[12] = {0, 7, 0, 0, 0, 6, 1, 3, 0, 0, 0, (unsigned char)registers};
    unsigned char expected[260] = {0, 7, 0, 0, 0, (unsigned char)(3 + 2 * registers), 1, 3, (unsigned char)(2 * registers)};
    size_t size = 9 + 2 * (size_t)registers;
    int poll = epoll_create1(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < connections; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
            die("connect");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
        if (send(fd, request, sizeof request, 0) != sizeof request)
            die("send");
    }
    long count = 0;
    double start = now_s(), end = start + seconds;
    struct epoll_event events[512];
    while (now_s() < end) {
        int ready = epoll_wait(poll, events, 512, 2000);
        if (ready <= 0) {
            fprintf(stderr, "no answer for 2 s\n");
            return 1;
        }
        for (int i = 0; i < ready; i++) {
            unsigned char answer[4096];
            int fd = events[i].data.fd;
            ssize_t got = recv(fd, answer, sizeof answer, 0);
            if (got != (ssize_t)size || memcmp(answer, expected, size)) {
                fprintf(stderr, "a wrong answer of %zd bytes\n", got);
                return 1;
            }
            count++;
            if (send(fd, request, sizeof request, 0) != sizeof request)
                die("send");
        }
    }
    printf("%.0f\n", (double)count / (now_s() - start));
    return 0;
}
