/* A TCP proxy that adds the latency of a real path, and nothing else.
 *
 *     delayproxy RTT_MS WINDOW LISTEN=UPSTREAM...
 *
 * LISTEN and UPSTREAM are ADDRESS:PORT (IPv4); port 0 of LISTEN takes a free one. Prints "listening
 * ADDRESS:PORT" for each pair in order, then serves until SIGTERM or until its parent ends.
 *
 * Bytes of either direction are delivered RTT/2 after they arrived, in order. A new connection is charged
 * its handshake: what the client sends counts as arrived one RTT after it connected, at the earliest. A
 * direction holds at most WINDOW bytes that are on their way, as a TCP window would: so one connection
 * carries at most WINDOW / (RTT/2) bytes a second.
 *
 * One thread, epoll. All delays are equal, so what is due next is the head of a queue in order of arrival:
 * there is one queue for pieces of data and one for handshakes. A connection is freed when no queued piece
 * refers to it any more.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { READ_SIZE = 256 << 10, MAX_PAIRS = 16 };

struct connection;

/* One direction: a ring of `window` bytes. Positions only grow; a place in the ring is position % window. */
struct direction {
    int from, to;           /* sockets */
    char *ring;
    uint64_t received;      /* read from `from` */
    uint64_t due;           /* may be delivered */
    uint64_t sent;          /* written to `to` */
    int ended;              /* `from` has sent its end */
    int end_due;            /* the end may be delivered */
    int end_sent;
    int blocked;            /* `to` takes no more for now */
};

struct endpoint {           /* what epoll refers to */
    struct connection *owner;
    int fd;
    int reads, writes;      /* direction that reads from here, and that writes to here */
    uint32_t events;
};

struct connection {
    struct direction directions[2];
    struct endpoint endpoints[2];
    int upstream;           /* index of the pair */
    int pending;            /* queued pieces and handshakes that refer to this */
    int closed;
};

struct piece {
    uint64_t time;
    struct connection *connection;
    uint64_t position;      /* end of the piece */
    int direction;          /* 0, 1; the end of the stream has bit 1 set */
};

struct queue {
    struct piece *pieces;
    uint64_t head, tail, capacity;
};

static struct { struct endpoint endpoint; struct sockaddr_in upstream; } pairs[MAX_PAIRS];
static struct queue data, handshakes;
static uint64_t round_trip;  /* nanoseconds */
static uint64_t window;
static int poller;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void enqueue(struct queue *queue, struct piece piece) {
    if (queue->tail - queue->head == queue->capacity) {
        uint64_t capacity = queue->capacity ? 2 * queue->capacity : 1024;
        struct piece *larger = malloc(capacity * sizeof *larger);
        if (!larger) fail("malloc");
        for (uint64_t i = queue->head; i < queue->tail; i++)
            larger[i % capacity] = queue->pieces[i % queue->capacity];
        free(queue->pieces);
        queue->pieces = larger;
        queue->capacity = capacity;
    }
    piece.connection->pending++;
    queue->pieces[queue->tail++ % queue->capacity] = piece;
}

static void drop_reference(struct connection *connection) {
    if (!connection->closed || connection->pending > 0) return;
    for (int i = 0; i < 2; i++)
        if (connection->directions[i].ring) munmap(connection->directions[i].ring, window);
    free(connection);
}

/* Memory is kept while queued pieces refer to it. */
static void close_connection(struct connection *connection) {
    if (connection->closed) return;
    connection->closed = 1;
    for (int i = 0; i < 2; i++)
        if (connection->endpoints[i].fd >= 0) close(connection->endpoints[i].fd);
}

static void watch(struct endpoint *endpoint) {
    struct connection *connection = endpoint->owner;
    struct direction *in = &connection->directions[endpoint->reads];
    struct direction *out = &connection->directions[endpoint->writes];
    uint32_t events = 0;
    if (!in->ended && in->received - in->sent < window) events |= EPOLLIN;
    if (out->blocked) events |= EPOLLOUT;
    if (events == endpoint->events) return;
    struct epoll_event event = {.events = events, .data.ptr = endpoint};
    /* Not watched at all rather than for nothing: a hang-up would be reported without end. */
    int change = events == 0 ? EPOLL_CTL_DEL : endpoint->events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    if (epoll_ctl(poller, change, endpoint->fd, &event)) fail("epoll_ctl");
    endpoint->events = events;
}

static void write_due(struct connection *connection, int number) {
    struct direction *direction = &connection->directions[number];
    while (direction->sent < direction->due) {
        uint64_t place = direction->sent % window;
        uint64_t count = direction->due - direction->sent;
        if (count > window - place) count = window - place;
        ssize_t written = send(direction->to, direction->ring + place, count, MSG_NOSIGNAL);
        if (written < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN) break;
            close_connection(connection);
            return;
        }
        direction->sent += (uint64_t)written;
    }
    direction->blocked = direction->sent < direction->due;
    if (!direction->blocked && direction->end_due && !direction->end_sent) {
        direction->end_sent = 1;
        shutdown(direction->to, SHUT_WR);
        if (connection->directions[!number].end_sent) {
            close_connection(connection);
            return;
        }
    }
    watch(&connection->endpoints[0]);
    watch(&connection->endpoints[1]);
}

static void read_arrived(struct connection *connection, int number) {
    struct direction *direction = &connection->directions[number];
    uint64_t place = direction->received % window;
    uint64_t space = window - (direction->received - direction->sent);
    if (space > window - place) space = window - place;
    if (space > READ_SIZE) space = READ_SIZE;
    if (space == 0) return;
    ssize_t count = recv(direction->from, direction->ring + place, space, 0);
    if (count < 0) {
        if (errno != EINTR && errno != EAGAIN) close_connection(connection);
        return;
    }
    struct piece piece = {.time = now() + round_trip / 2, .connection = connection, .direction = number};
    direction->received += (uint64_t)count;
    piece.position = direction->received;
    if (count == 0) {
        direction->ended = 1;
        piece.direction |= 2;
    }
    if (round_trip > 0) {
        enqueue(&data, piece);
        watch(&connection->endpoints[number]);
        return;
    }
    direction->due = direction->received;
    direction->end_due = direction->ended;
    write_due(connection, number);
}

static int no_delay(int fd) {
    int yes = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return fd;
}

static void accept_connection(int pair) {
    int fd = accept4(pairs[pair].endpoint.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    struct connection *connection = calloc(1, sizeof *connection);
    if (!connection) fail("calloc");
    connection->upstream = pair;
    connection->endpoints[0].fd = no_delay(fd);
    connection->endpoints[1].fd = -1;
    struct piece piece = {.time = now() + round_trip, .connection = connection};
    enqueue(&handshakes, piece);
}

static void finish_handshake(struct connection *connection) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) fail("socket");
    connection->endpoints[1].fd = no_delay(fd);
    const struct sockaddr_in *address = &pairs[connection->upstream].upstream;
    if (connect(fd, (const struct sockaddr *)address, sizeof *address) && errno != EINPROGRESS) {
        close_connection(connection);
        return;
    }
    for (int i = 0; i < 2; i++) {
        struct direction *direction = &connection->directions[i];
        direction->from = connection->endpoints[i].fd;
        direction->to = connection->endpoints[!i].fd;
        direction->ring =
            mmap(NULL, window, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (direction->ring == MAP_FAILED) fail("mmap");
        struct endpoint *endpoint = &connection->endpoints[i];
        endpoint->owner = connection;
        endpoint->reads = i;
        endpoint->writes = !i;
        endpoint->events = EPOLLIN;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = endpoint};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, endpoint->fd, &event)) fail("epoll_ctl");
    }
}

/* Handles what is due, and returns when the next is, or 0. */
static uint64_t handle_due(void) {
    for (;;) {
        struct piece *first = data.head < data.tail ? &data.pieces[data.head % data.capacity] : NULL;
        struct piece *other = handshakes.head < handshakes.tail
            ? &handshakes.pieces[handshakes.head % handshakes.capacity] : NULL;
        int is_data = first && (!other || first->time <= other->time);
        if (!is_data) first = other;
        if (!first) return 0;
        if (first->time > now()) return first->time;
        struct piece piece = *first;
        if (is_data) data.head++; else handshakes.head++;
        struct connection *connection = piece.connection;
        connection->pending--;
        if (!connection->closed) {
            if (is_data) {
                struct direction *direction = &connection->directions[piece.direction & 1];
                direction->due = piece.position;
                if (piece.direction & 2) direction->end_due = 1;
                write_due(connection, piece.direction & 1);
            } else {
                finish_handshake(connection);
            }
        }
        drop_reference(connection);
    }
}

static void handle_event(const struct epoll_event *event) {
    struct endpoint *endpoint = event->data.ptr;
    if (!endpoint->owner) {
        accept_connection(endpoint->reads);
        return;
    }
    struct connection *connection = endpoint->owner;
    if (event->events & EPOLLERR) close_connection(connection);
    if (!connection->closed && event->events & EPOLLOUT) write_due(connection, endpoint->writes);
    if (!connection->closed && event->events & EPOLLIN) read_arrived(connection, endpoint->reads);
}

static struct sockaddr_in parse_address(const char *text, size_t length) {
    char copy[64];
    struct sockaddr_in address = {.sin_family = AF_INET};
    char *colon;
    if (length >= sizeof copy) length = sizeof copy - 1;
    memcpy(copy, text, length);
    copy[length] = 0;
    colon = strrchr(copy, ':');
    if (colon) *colon = 0;
    if (!colon || inet_pton(AF_INET, copy, &address.sin_addr) != 1) {
        fprintf(stderr, "delayproxy: %s is no ADDRESS:PORT\n", text);
        exit(2);
    }
    address.sin_port = htons((uint16_t)atoi(colon + 1));
    return address;
}

static void listen_on(int pair, const char *text) {
    const char *equals = strchr(text, '=');
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), yes = 1;
    if (!equals) {
        fprintf(stderr, "delayproxy: %s is no LISTEN=UPSTREAM\n", text);
        exit(2);
    }
    struct sockaddr_in address = parse_address(text, (size_t)(equals - text));
    socklen_t length = sizeof address;
    pairs[pair].upstream = parse_address(equals + 1, strlen(equals + 1));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (struct sockaddr *)&address, length) || listen(fd, 1024)) fail(text);
    getsockname(fd, (struct sockaddr *)&address, &length);
    pairs[pair].endpoint.fd = fd;
    pairs[pair].endpoint.reads = pair;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &pairs[pair].endpoint};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
    printf("listening %s:%d\n", inet_ntoa(address.sin_addr), ntohs(address.sin_port));
}

int main(int count, char **arguments) {
    if (count < 4 || count - 3 > MAX_PAIRS) {
        fprintf(stderr, "usage: delayproxy RTT_MS WINDOW LISTEN=UPSTREAM...\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    prctl(PR_SET_TIMERSLACK, 1);
    round_trip = (uint64_t)(atof(arguments[1]) * 1e6);
    window = strtoull(arguments[2], NULL, 10);
    if (window < READ_SIZE) window = READ_SIZE;
    poller = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 3; i < count; i++) listen_on(i - 3, arguments[i]);
    fflush(stdout);
    for (;;) {
        struct epoll_event events[1];
        uint64_t due = handle_due(), time = now();
        struct timespec timeout = {0};
        if (due > time) {
            timeout.tv_sec = (time_t)((due - time) / 1000000000u);
            timeout.tv_nsec = (long)((due - time) % 1000000000u);
        }
        /* One event at a time: an earlier one may have freed the connection of a later one. */
        int ready = epoll_pwait2(poller, events, 1, due ? &timeout : NULL, NULL);
        if (ready < 0 && errno != EINTR) fail("epoll_pwait2");
        if (ready == 1) {
            struct connection *connection = ((struct endpoint *)events[0].data.ptr)->owner;
            handle_event(&events[0]);
            if (connection) drop_reference(connection);
        }
    }
}
