/*
 * Load generator: one thread, epoll, keep-alive connections, one request in flight on each.
 *
 * It sends prepared requests round-robin and compares every answer, status and body, with the one prepared for it. Two
 * modes: closed loop (a connection sends again as soon as it is answered) and, with --rate, open loop: requests fall
 * due by a Poisson process whatever the server does, and latency counts from when a request fell due, not from when it
 * could be sent, so that a stalled server cannot hide what it kept waiting (coordinated omission).
 *
 * Requests file, integers in the machine's byte order, repeated to its end:
 *     u32 request length | u32 answer body length | request, head and body | answer body
 *
 * SIGTERM ends the measurement before its time.
 *
 * --log FILE keeps what the quantiles are made of, for each request: u64 start (CLOCK_MONOTONIC, ns) | u64 latency (ns).
 *
 * The result is one line of JSON on stdout; the first wrong answer is shown on stderr. Exit status: 0 measured,
 * 1 could not connect or read the file, 2 wrong usage.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull
#define NS_PER_MS 1000000ull
#define MAX_EVENTS 512
#define MAX_HEAD 4096
#define MAX_RECONNECTS 1000
#define DRAIN_NS (5 * NS_PER_S)
/* Below this distance to the next due request epoll is polled, because waking up from it takes tens of microseconds. */
#define SPIN_NS (2 * NS_PER_MS)

#define TRACE_HEADER "traceparent: 00-"
#define TRACE_DIGITS 32

/* ---- latencies: buckets of less than 1 % width, as HdrHistogram keeps them ---- */

#define SUB_BITS 7
#define SUB_BUCKETS (1u << SUB_BITS)
#define BUCKETS ((64 - SUB_BITS + 1) * SUB_BUCKETS)

static uint64_t histogram[BUCKETS];
static uint64_t histogram_count, histogram_max;

static unsigned bucket_of(uint64_t value) {
    if (value < SUB_BUCKETS) return (unsigned)value;
    unsigned shift = 63 - (unsigned)__builtin_clzll(value) - SUB_BITS;
    return (shift + 1) * SUB_BUCKETS + (unsigned)((value >> shift) - SUB_BUCKETS);
}

static double middle_of(unsigned bucket) {
    if (bucket < SUB_BUCKETS) return bucket;
    unsigned shift = bucket / SUB_BUCKETS - 1;
    uint64_t low = (uint64_t)(bucket % SUB_BUCKETS + SUB_BUCKETS) << shift;
    return (double)low + (double)(1ull << shift) / 2;
}

static FILE *log_file;

static void record_latency(uint64_t since_ns, uint64_t ns) {
    if (log_file) fwrite((uint64_t[]){since_ns, ns}, sizeof since_ns, 2, log_file);
    histogram[bucket_of(ns)]++;
    histogram_count++;
    if (ns > histogram_max) histogram_max = ns;
}

static double quantile_us(double q) {
    uint64_t wanted = (uint64_t)ceil(q * (double)histogram_count), seen = 0;
    for (unsigned bucket = 0; bucket < BUCKETS; bucket++) {
        seen += histogram[bucket];
        if (seen >= wanted && seen) return fmin(middle_of(bucket), (double)histogram_max) / 1e3;
    }
    return 0;
}

/* ---- options, requests ---- */

static struct {
    const char *connect, *requests, *log;
    unsigned connections;
    double seconds, warmup, rate;
    bool vary;
    int cpu;
} options = {.connections = 1, .seconds = 1, .warmup = 0.2, .cpu = -1};

struct record {
    char *request, *answer;
    uint32_t request_length, answer_length;
    uint32_t trace_offset; /* of the digits that --vary replaces */
};

static struct record *records;
static size_t record_count, next_record;
static size_t longest_request, longest_answer;

static void die(const char *what) {
    fprintf(stderr, "loadgen: %s: %s\n", what, errno ? strerror(errno) : "malformed");
    exit(1);
}

static uint32_t find_trace(const char *request, uint32_t length) {
    const char *header = memmem(request, length, TRACE_HEADER, strlen(TRACE_HEADER));
    if (!header) {
        errno = 0;
        die("--vary needs a " TRACE_HEADER "... header in every request");
    }
    return (uint32_t)(header - request) + (uint32_t)strlen(TRACE_HEADER);
}

static void load_requests(const char *path) {
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status)) die(path);
    size_t size = (size_t)status.st_size, got = 0, at = 0;
    char *data = malloc(size + 1);
    while (got < size) {
        ssize_t n = read(fd, data + got, size - got);
        if (n <= 0) die(path);
        got += (size_t)n;
    }
    close(fd);
    errno = 0;
    while (at < size) {
        uint32_t lengths[2];
        if (size - at < sizeof lengths) die(path);
        memcpy(lengths, data + at, sizeof lengths);
        at += sizeof lengths;
        if (size - at < (size_t)lengths[0] + lengths[1]) die(path);
        records = realloc(records, (record_count + 1) * sizeof *records);
        struct record *record = &records[record_count++];
        *record = (struct record){data + at, data + at + lengths[0], lengths[0], lengths[1], 0};
        if (options.vary) record->trace_offset = find_trace(record->request, record->request_length);
        if (lengths[0] > longest_request) longest_request = lengths[0];
        if (lengths[1] > longest_answer) longest_answer = lengths[1];
        at += (size_t)lengths[0] + lengths[1];
    }
    if (!record_count) die(path);
}

/* ---- time and randomness ---- */

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static double cpu_seconds(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* splitmix64: the same seed in every run, so that every server meets the same arrivals */
static uint64_t random_bits(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static uint64_t arrival_state = 1, trace_state = 2;

static double next_gap_ns(void) {
    double uniform = ((double)(random_bits(&arrival_state) >> 11) + 1) / 9007199254740992.0; /* (0, 1] */
    return -log(uniform) / options.rate * 1e9;
}

/* ---- connections ---- */

struct connection {
    int fd;
    bool busy, wants_write;
    const struct record *record;
    const char *out;
    char *own_request; /* only with --vary */
    size_t sent, received, body_at, answer_end; /* the last two are 0 until the head is complete */
    char *in;
    uint64_t since_ns; /* due time in the open loop, time of sending in the closed one */
};

static int epoll_fd;
static size_t in_capacity;
static struct connection *connections;
static unsigned *idle; /* a ring, so that the open loop uses all connections in turn */
static unsigned idle_head, idle_count, in_flight;

static uint64_t window_start;
static volatile uint64_t window_end; /* set by a signal as well */
static uint64_t checked, wrong, errors, closes, in_window;

static int open_socket(void) {
    int fd;
    struct timeval limit = {.tv_sec = 10};
    if (!strncmp(options.connect, "unix:", 5)) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        strncpy(address.sun_path, options.connect + 5, sizeof address.sun_path - 1);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) die(options.connect);
    } else {
        struct sockaddr_in address = {.sin_family = AF_INET};
        char host[64] = "";
        unsigned port;
        if (sscanf(options.connect, "%63[0-9.]:%u", host, &port) != 2 || !inet_aton(host, &address.sin_addr)) {
            fprintf(stderr, "loadgen: --connect takes IPV4:PORT or unix:PATH\n");
            exit(2);
        }
        address.sin_port = htons((uint16_t)port);
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) die(options.connect);
        int on = 1;
        /* A reset at the end leaves no TIME_WAIT behind: thousands of connections would use up the ports. */
        struct linger reset = {.l_onoff = 1, .l_linger = 0};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    }
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return fd;
}

static void watch(struct connection *c, int operation, bool wants_write) {
    struct epoll_event event = {.events = EPOLLIN | (wants_write ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(epoll_fd, operation, c->fd, &event)) die("epoll_ctl");
    c->wants_write = wants_write;
}

static void set_idle(struct connection *c) {
    c->busy = false;
    idle[(idle_head + idle_count++) % options.connections] = (unsigned)(c - connections);
}

static void reconnect(struct connection *c) {
    close(c->fd);
    if (c->busy) {
        errors++;
        in_flight--;
        set_idle(c);
    }
    if (closes + errors > MAX_RECONNECTS) {
        fprintf(stderr, "loadgen: %llu connections lost, giving up\n", (unsigned long long)(closes + errors));
        exit(1);
    }
    c->fd = open_socket();
    c->received = 0;
    watch(c, EPOLL_CTL_ADD, false);
}

static void write_more(struct connection *c) {
    while (c->sent < c->record->request_length) {
        ssize_t n = send(c->fd, c->out + c->sent, c->record->request_length - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN) {
                reconnect(c);
            } else if (!c->wants_write) {
                watch(c, EPOLL_CTL_MOD, true);
            }
            return;
        }
        c->sent += (size_t)n;
    }
    if (c->wants_write) watch(c, EPOLL_CTL_MOD, false);
}

static void write_trace(char *digits) {
    static const char hex[] = "0123456789abcdef";
    for (int half = 0; half < 2; half++) {
        uint64_t bits = random_bits(&trace_state);
        for (int i = 0; i < TRACE_DIGITS / 2; i++, bits >>= 4) *digits++ = hex[bits & 15];
    }
}

static void send_next(struct connection *c, uint64_t since_ns) {
    c->record = &records[next_record];
    if (++next_record == record_count) next_record = 0;
    c->out = c->record->request;
    if (options.vary) {
        memcpy(c->own_request, c->record->request, c->record->request_length);
        write_trace(c->own_request + c->record->trace_offset);
        c->out = c->own_request;
    }
    c->sent = c->received = c->body_at = c->answer_end = 0;
    c->since_ns = since_ns;
    c->busy = true;
    in_flight++;
    write_more(c);
}

static void count_wrong(const struct connection *c, const char *why) {
    if (!wrong++) fprintf(stderr, "loadgen: wrong answer (%s):\n%.*s\n", why, (int)c->received, c->in);
}

/* Content-Length out of a complete head, or -1. */
static long content_length(const char *head, const char *end) {
    static const char name[] = "content-length:";
    for (const char *line = head; line < end;) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        if (!newline) break;
        if (!strncasecmp(line, name, sizeof name - 1)) return strtol(line + sizeof name - 1, NULL, 10);
        line = newline + 1;
    }
    return -1;
}

/* Whether the answer is complete. Marks it wrong and reconnects if it cannot be read. */
static bool answer_complete(struct connection *c) {
    if (!c->answer_end) {
        char *blank = memmem(c->in, c->received, "\r\n\r\n", 4);
        if (!blank) {
            if (c->received < in_capacity) return false;
            count_wrong(c, "head too long");
            reconnect(c);
            return false;
        }
        c->body_at = (size_t)(blank - c->in) + 4;
        long length = content_length(c->in, c->in + c->body_at);
        c->answer_end = c->body_at + (size_t)length;
        if (length < 0 || c->answer_end > in_capacity) {
            count_wrong(c, "no length, or too long");
            reconnect(c);
            return false;
        }
    }
    return c->received >= c->answer_end;
}

static void check_answer(const struct connection *c) {
    static const char good[] = "HTTP/1.1 200 ";
    const struct record *record = c->record;
    checked++;
    if (c->received != c->answer_end) {
        count_wrong(c, "more than was asked for");
    } else if (memcmp(c->in, good, sizeof good - 1)) {
        count_wrong(c, "status");
    } else if (c->answer_end - c->body_at != record->answer_length ||
               memcmp(c->in + c->body_at, record->answer, record->answer_length)) {
        count_wrong(c, "body");
    }
}

/* One read; returns true when it completed an answer. */
static bool read_more(struct connection *c) {
    ssize_t n = recv(c->fd, c->in + c->received, in_capacity - c->received, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (n <= 0) {
        closes++;
        reconnect(c);
        return false;
    }
    c->received += (size_t)n;
    if (!c->busy) {
        count_wrong(c, "nothing was asked for");
        reconnect(c);
        return false;
    }
    if (!answer_complete(c)) return false;
    check_answer(c);
    in_flight--;
    set_idle(c);
    return true;
}

static void count_answer(const struct connection *c, uint64_t now) {
    if (now >= window_start && now < window_end) in_window++;
    if (c->since_ns >= window_start && c->since_ns < window_end) record_latency(c->since_ns, now - c->since_ns);
}

/* ---- the two loops ---- */

static struct connection *take_idle(void) {
    struct connection *c = &connections[idle[idle_head]];
    idle_head = (idle_head + 1) % options.connections;
    idle_count--;
    return c;
}

static void handle_events(int timeout_ms) {
    struct epoll_event events[MAX_EVENTS];
    int n = epoll_wait(epoll_fd, events, MAX_EVENTS, timeout_ms);
    for (int i = 0; i < n; i++) {
        struct connection *c = events[i].data.ptr;
        if (events[i].events & EPOLLOUT) write_more(c);
        if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP) && read_more(c)) count_answer(c, now_ns());
    }
}

/*
 * The generator has a core of its own and does not sleep on it: waking it up is work of the server's write, on a virtual
 * machine the dearest part of it, and the slower the server, the more often it would pay. With one core it must sleep.
 */
static void run_closed(void) {
    int timeout_ms = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 0 : 100;
    uint64_t now;
    while ((now = now_ns()) < window_end) {
        while (idle_count) send_next(take_idle(), now_ns());
        handle_events(timeout_ms);
    }
}

/* Requests that fell due and were never sent count with the time they had waited at the end. */
static uint64_t run_open(void) {
    double due = (double)now_ns();
    uint64_t now, unsent = 0;
    while ((now = now_ns()) < window_end) {
        while (idle_count && due <= (double)now) {
            send_next(take_idle(), (uint64_t)due);
            due += next_gap_ns();
        }
        /* With no connection idle only an answer can help; with one, sleep up to shortly before the next is due. */
        double ahead = idle_count ? due - (double)now_ns() - (double)SPIN_NS : (double)(10 * NS_PER_MS);
        handle_events(ahead <= 0 ? 0 : (int)fmin(ahead / (double)NS_PER_MS, 100));
    }
    for (; due < (double)window_end; due += next_gap_ns(), unsent++) {
        if (due >= (double)window_start) record_latency((uint64_t)due, window_end - (uint64_t)due);
    }
    return unsent;
}

static void end_window(int signal_number) {
    (void)signal_number;
    window_end = now_ns();
}

static void drain(void) {
    uint64_t end = now_ns() + DRAIN_NS;
    while (in_flight && now_ns() < end) handle_events(100);
    errors += in_flight;
}

static void open_connections(void) {
    in_capacity = longest_answer + MAX_HEAD;
    connections = calloc(options.connections, sizeof *connections);
    idle = calloc(options.connections, sizeof *idle);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (unsigned i = 0; i < options.connections; i++) {
        struct connection *c = &connections[i];
        c->in = malloc(in_capacity);
        c->own_request = options.vary ? malloc(longest_request) : NULL;
        c->fd = open_socket();
        watch(c, EPOLL_CTL_ADD, false);
        set_idle(c);
    }
}

/* ---- command line ---- */

static void usage(void) {
    fprintf(stderr, "usage: loadgen --connect IPV4:PORT|unix:PATH --requests FILE [--connections N] [--seconds S]\n"
                    "               [--warmup S] [--rate PER_SECOND] [--vary] [--cpu N] [--log FILE]\n");
    exit(2);
}

static void parse_options(int argc, char **argv) {
    static const struct option known[] = {
        {"connect", 1, 0, 'a'}, {"requests", 1, 0, 'f'}, {"connections", 1, 0, 'n'}, {"seconds", 1, 0, 's'},
        {"warmup", 1, 0, 'w'},  {"rate", 1, 0, 'r'},     {"vary", 0, 0, 'v'},        {"cpu", 1, 0, 'c'},
        {"log", 1, 0, 'l'},     {0, 0, 0, 0}};
    for (int o; (o = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (o == 'a') options.connect = optarg;
        else if (o == 'f') options.requests = optarg;
        else if (o == 'n') options.connections = (unsigned)atoi(optarg);
        else if (o == 's') options.seconds = atof(optarg);
        else if (o == 'w') options.warmup = atof(optarg);
        else if (o == 'r') options.rate = atof(optarg);
        else if (o == 'v') options.vary = true;
        else if (o == 'c') options.cpu = atoi(optarg);
        else if (o == 'l') options.log = optarg;
        else usage();
    }
    if (!options.connect || !options.requests || options.connections < 1 || options.seconds <= 0) usage();
}

int main(int argc, char **argv) {
    parse_options(argc, argv);
    if (options.cpu >= 0) {
        cpu_set_t cpus;
        CPU_ZERO(&cpus);
        CPU_SET((unsigned)options.cpu, &cpus);
        if (sched_setaffinity(0, sizeof cpus, &cpus)) die("--cpu");
    }
    load_requests(options.requests);
    if (options.log && !(log_file = fopen(options.log, "wb"))) die(options.log);
    open_connections();

    double cpu = cpu_seconds();
    uint64_t start = now_ns(), unsent = 0;
    window_start = start + (uint64_t)(options.warmup * 1e9);
    window_end = window_start + (uint64_t)(options.seconds * 1e9);
    signal(SIGTERM, end_window);
    if (options.rate > 0) unsent = run_open();
    else run_closed();
    cpu = (cpu_seconds() - cpu) / ((double)(now_ns() - start) / 1e9);
    drain();
    if (log_file && fclose(log_file)) die(options.log);

    printf("{\"requests\": %llu, \"checked\": %llu, \"wrong\": %llu, \"errors\": %llu, \"closes\": %llu, "
           "\"unsent\": %llu, \"seconds\": %.6f, \"rps\": %.1f, \"generator_cpu\": %.3f, \"quantiles_us\": {",
           (unsigned long long)in_window, (unsigned long long)checked, (unsigned long long)wrong,
           (unsigned long long)errors, (unsigned long long)closes, (unsigned long long)unsent, options.seconds,
           (double)in_window / options.seconds, cpu);
    printf("\"p50\": %.2f, \"p90\": %.2f, \"p99\": %.2f, \"p99.9\": %.2f, \"max\": %.2f}}\n", quantile_us(0.5),
           quantile_us(0.9), quantile_us(0.99), quantile_us(0.999), (double)histogram_max / 1e3);
    return 0;
}
