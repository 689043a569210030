/* Load on one Modbus TCP server on 127.0.0.1, every answer compared byte for byte.
 *
 * load PORT closed CONNECTIONS IN_FLIGHT read|write REGISTERS SECONDS
 *     So many connections with so many requests in flight each; answers to one read of the socket are
 *     replaced by as many new requests in one write. Prints JSON: answered, seconds, lost, p50_us,
 *     p99_us, p999_us, cpu_s.
 * load PORT churn CONNECTIONS SECONDS
 *     Connect, read one register, close; so many at a time. Prints JSON: answered, seconds, cpu_s.
 * load PORT idle CONNECTIONS
 *     Opens so many, asks each once, says "ready" and waits for the end of its input.
 *
 * With LOAD_RESTLESS in the environment it polls without sleeping.
 *
 * A wrong answer, or none for 5 s, is printed on stderr and ends the run with exit code 1. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FRAME = 260, MOST_IN_FLIGHT = 64, REGISTERS = 320, WRITE_AT = 512, EVENTS = 512, SUB = 32 };

struct connection {
    int fd, waiting, filled;
    unsigned generation;
    double sent[MOST_IN_FLIGHT];
    unsigned short id[MOST_IN_FLIGHT];
    unsigned char rest[FRAME];
};

static int port, in_flight, registers, writing, restless;
static long histogram[64 * SUB];

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double cpu_s(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void fail(const char *why) {
    fprintf(stderr, "port %d: %s\n", port, why);
    exit(1);
}

static void die(const char *what) {
    fprintf(stderr, "port %d: %s: %s\n", port, what, strerror(errno));
    exit(1);
}

static int connected(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    struct timeval patience = {.tv_sec = 5};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0)
        die("socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

/* What register number `at` holds once `prepare` has written it: neighbours differ in both bytes. */
static unsigned value(int at) { return (unsigned)(0x1234 + at * 0x0107) & 0xffff; }

static void put(unsigned char *to, unsigned word) {
    to[0] = (unsigned char)(word >> 8);
    to[1] = (unsigned char)word;
}

static size_t header(unsigned char *to, unsigned id, size_t pdu) {
    put(to, id);
    put(to + 2, 0);
    put(to + 4, (unsigned)pdu + 1);
    to[6] = 1;
    return 7 + pdu;
}

static size_t read_request(unsigned char *to, unsigned id, int at, int quantity) {
    to[7] = 3;
    put(to + 8, (unsigned)at);
    put(to + 10, (unsigned)quantity);
    return header(to, id, 5);
}

static size_t read_answer(unsigned char *to, unsigned id, int at, int quantity) {
    to[7] = 3;
    to[8] = (unsigned char)(2 * quantity);
    for (int i = 0; i < quantity; i++)
        put(to + 9 + 2 * i, value(at + i));
    return header(to, id, 2 + 2 * (size_t)quantity);
}

static size_t write_request(unsigned char *to, unsigned id, int at, int quantity) {
    to[7] = 16;
    put(to + 8, (unsigned)at);
    put(to + 10, (unsigned)quantity);
    to[12] = (unsigned char)(2 * quantity);
    for (int i = 0; i < quantity; i++)
        put(to + 13 + 2 * i, value(at + i));
    return header(to, id, 6 + 2 * (size_t)quantity);
}

static size_t write_answer(unsigned char *to, unsigned id, int at, int quantity) {
    to[7] = 16;
    put(to + 8, (unsigned)at);
    put(to + 10, (unsigned)quantity);
    return header(to, id, 5);
}

/* One request and its answer, waiting for it. */
static void exchange(int fd, const unsigned char *request, size_t size, const unsigned char *expected, size_t due) {
    unsigned char answer[FRAME];
    size_t got = 0;
    if (send(fd, request, size, MSG_NOSIGNAL) != (ssize_t)size)
        die("send");
    while (got < due) {
        ssize_t more = recv(fd, answer + got, due - got, 0);
        if (more <= 0)
            die("no answer");
        got += (size_t)more;
    }
    if (memcmp(answer, expected, due))
        fail("a wrong answer");
}

/* Give the registers that are read their values. */
static void prepare(void) {
    unsigned char request[FRAME], expected[FRAME];
    int fd = connected();
    for (int at = 0; at < REGISTERS; at += 64) {
        size_t size = write_request(request, 1, at, 64), due = write_answer(expected, 1, at, 64);
        exchange(fd, request, size, expected, due);
    }
    close(fd);
}

/* Log-linear: 32 steps from each power of two of nanoseconds to the next, at most 3 % wide. */
static void record(double seconds) {
    unsigned long ns = seconds > 0 ? (unsigned long)(seconds * 1e9) : 0;
    int power = ns < 2 * SUB ? 0 : 63 - __builtin_clzl(ns) - 5;
    histogram[power * SUB + (int)(ns >> power)]++;
}

static double percentile_us(long total, double share) {
    long sum = 0, wanted = (long)((double)total * share);
    for (int i = 0; i < 64 * SUB; i++)
        if ((sum += histogram[i]) > wanted) {
            int power = i < SUB ? 0 : i / SUB - 1;
            return (double)((unsigned long)(i < SUB ? i : SUB + i % SUB) << power) / 1e3;
        }
    return 0;
}

/* What is ready. With a processor of its own it never sleeps: else each answer costs the server the
 * wake-up of this program, which is several times what answering costs. */
static int wait_for(int poll, struct epoll_event *events) {
    double end = now_s() + 5;
    int ready;
    do
        ready = epoll_wait(poll, events, EVENTS, restless ? 0 : 5000);
    while (!ready && now_s() < end);
    if (ready <= 0)
        fail("no answer for 5 s");
    return ready;
}

static int place(int slot) { return writing ? WRITE_AT + slot * 128 : slot * 3; }

/* Ask once more for each free slot, in one segment. */
static void ask(struct connection *c, const unsigned char *slots, int count) {
    unsigned char out[MOST_IN_FLIGHT * FRAME];
    size_t size = 0;
    double now = now_s();
    for (int i = 0; i < count; i++) {
        int slot = slots[i];
        c->id[slot] = (unsigned short)(c->generation++ * MOST_IN_FLIGHT + (unsigned)slot);
        c->sent[slot] = now;
        size += (writing ? write_request : read_request)(out + size, c->id[slot], place(slot), registers);
    }
    c->waiting += count;
    if (send(c->fd, out, size, MSG_NOSIGNAL) != (ssize_t)size)
        die("send");
}

/* Check every whole answer in the buffer; returns how many, and whose slots they free. */
static int check(struct connection *c, const unsigned char *data, size_t size, unsigned char *slots) {
    static unsigned char expected[MOST_IN_FLIGHT][FRAME];
    static size_t due;
    int count = 0;
    size_t at = 0;
    if (!due)
        for (int slot = 0; slot < MOST_IN_FLIGHT; slot++)
            due = (writing ? write_answer : read_answer)(expected[slot], 0, place(slot), registers);
    double now = now_s();
    while (size - at >= due) {
        unsigned id = (unsigned)data[at] << 8 | data[at + 1];
        int slot = (int)(id % MOST_IN_FLIGHT);
        if (slot >= in_flight || c->sent[slot] == 0 || c->id[slot] != id)
            fail("an answer to a request that was not made");
        if (memcmp(data + at + 2, expected[slot] + 2, due - 2))
            fail("a wrong answer");
        record(now - c->sent[slot]);
        c->sent[slot] = 0;
        slots[count++] = (unsigned char)slot;
        at += due;
    }
    c->filled = (int)(size - at);
    memmove(c->rest, data + at, (size_t)c->filled);
    c->waiting -= count;
    return count;
}

/* Take what has come on one connection. */
static int take(struct connection *c, unsigned char *slots) {
    unsigned char data[MOST_IN_FLIGHT * FRAME + FRAME];
    memcpy(data, c->rest, (size_t)c->filled);
    ssize_t got = recv(c->fd, data + c->filled, sizeof data - FRAME, 0);
    if (got < 0)
        die("recv");
    if (got == 0)
        fail("the connection was closed");
    return check(c, data, (size_t)(c->filled + got), slots);
}

static long waiting_for(const struct connection *all, int connections) {
    long sum = 0;
    for (int i = 0; i < connections; i++)
        sum += all[i].waiting;
    return sum;
}

static void closed_loop(int connections, double seconds) {
    struct connection *all = calloc((size_t)connections, sizeof *all);
    struct epoll_event events[EVENTS];
    unsigned char slots[MOST_IN_FLIGHT], request[FRAME], expected[FRAME];
    int poll = epoll_create1(0), running = 1, warm = 0;
    long answered = 0;
    prepare();
    size_t size = read_request(request, 1, 0, 1), due = read_answer(expected, 1, 0, 1);
    for (int i = 0; i < connections; i++) { /* each is served before the next comes: backlogs differ */
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = all + i};
        all[i].fd = connected();
        exchange(all[i].fd, request, size, expected, due);
        epoll_ctl(poll, EPOLL_CTL_ADD, all[i].fd, &event);
    }
    for (int i = 0; i < in_flight; i++)
        slots[i] = (unsigned char)i;
    for (int i = 0; i < connections; i++)
        ask(all + i, slots, in_flight);
    double start = now_s(), begin = start, end = start + seconds, cpu = cpu_s();
    while (running) {
        int ready = wait_for(poll, events);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            int count = take(c, slots);
            answered += count;
            if (count)
                ask(c, slots, count);
        }
        double now = now_s();
        if (!warm && now > start + seconds * 0.1) {
            warm = 1;
            answered = 0;
            memset(histogram, 0, sizeof histogram);
            begin = now;
            cpu = cpu_s();
        }
        running = now < end;
    }
    double took = now_s() - begin;
    cpu = cpu_s() - cpu;
    double p50 = percentile_us(answered, 0.5), p99 = percentile_us(answered, 0.99), p999 = percentile_us(answered, 0.999);
    for (double last = now_s(); waiting_for(all, connections) && now_s() < last + 0.3;) { /* what is still to come */
        int ready = epoll_wait(poll, events, EVENTS, 50);
        for (int i = 0; i < ready; i++)
            if (take(events[i].data.ptr, slots))
                last = now_s();
    }
    for (int i = 0; i < connections; i++)
        if (all[i].filled)
            fail("an answer that breaks off, or is not what was asked for");
    printf("{\"answered\": %ld, \"seconds\": %.6f, \"lost\": %ld, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"p999_us\": %.1f, \"cpu_s\": %.6f}\n", answered, took, waiting_for(all, connections), p50, p99, p999, cpu);
}

static void churn(int connections, double seconds) {
    struct epoll_event events[EVENTS];
    unsigned char request[FRAME], expected[FRAME], answer[FRAME];
    size_t size = read_request(request, 1, 0, 1), due = read_answer(expected, 1, 0, 1);
    int poll = epoll_create1(0);
    long answered = 0;
    prepare();
    double begin = now_s(), cpu = cpu_s();
    for (int open = 0;;) {
        for (; open < connections; open++) {
            struct epoll_event event = {.events = EPOLLIN, .data.fd = connected()};
            if (send(event.data.fd, request, size, MSG_NOSIGNAL) != (ssize_t)size)
                die("send");
            epoll_ctl(poll, EPOLL_CTL_ADD, event.data.fd, &event);
        }
        int ready = wait_for(poll, events);
        for (int i = 0; i < ready; i++, open--, answered++) {
            if (recv(events[i].data.fd, answer, sizeof answer, 0) != (ssize_t)due || memcmp(answer, expected, due))
                fail("a wrong answer");
            close(events[i].data.fd);
        }
        if (now_s() > begin + seconds)
            break;
    }
    printf("{\"answered\": %ld, \"seconds\": %.6f, \"cpu_s\": %.6f}\n", answered, now_s() - begin, cpu_s() - cpu);
}

static void idle(int connections) {
    unsigned char request[FRAME], expected[FRAME], byte;
    size_t size = read_request(request, 1, 0, 1), due = read_answer(expected, 1, 0, 1);
    prepare();
    for (int i = 0; i < connections; i++)
        exchange(connected(), request, size, expected, due);
    printf("ready\n");
    fflush(stdout);
    while (read(0, &byte, 1) > 0)
        ;
}

int main(int argc, char **argv) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    port = argc > 1 ? atoi(argv[1]) : 0;
    restless = getenv("LOAD_RESTLESS") != NULL;
    if (argc == 8 && !strcmp(argv[2], "closed")) {
        in_flight = atoi(argv[4]);
        writing = !strcmp(argv[5], "write");
        registers = atoi(argv[6]);
        if (in_flight < 1 || in_flight > MOST_IN_FLIGHT || registers < 1 || registers > (writing ? 123 : 125))
            fail("in flight 1 to 64, registers 1 to 125, 123 to write");
        closed_loop(atoi(argv[3]), atof(argv[7]));
    } else if (argc == 5 && !strcmp(argv[2], "churn")) {
        churn(atoi(argv[3]), atof(argv[4]));
    } else if (argc == 4 && !strcmp(argv[2], "idle")) {
        idle(atoi(argv[3]));
    } else {
        fprintf(stderr, "usage: load PORT closed CONNECTIONS IN_FLIGHT read|write REGISTERS SECONDS\n"
                        "       load PORT churn CONNECTIONS SECONDS\n       load PORT idle CONNECTIONS\n");
        return 2;
    }
    return 0;
}
