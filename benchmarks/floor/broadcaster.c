/* The floor: the system calls that a broadcast of Yjs updates needs, and nothing else. `broadcaster PORT`, on 127.0.0.1.
 *
 * One thread, epoll and one recv() for each socket that is ready. A room is the path of the URL. What the sockets of a room
 * brought in one round of epoll goes to each other socket of the room in one send(): one WebSocket frame for each update.
 * SyncStep1 is answered with the room's updates so far and an empty SyncStep2. Nothing is read, merged, limited or stored;
 * lengths are checked, and a frame of more than 16 MiB or in pieces ends its connection.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST_SOCKETS = 65536, MOST_EVENTS = 1024, READ_BYTES = 262144, MOST_FRAME = 16 << 20, MOST_PATH = 256, MOST_HEAD = 8192 };
enum { BINARY = 2, CLOSE = 8, FINAL = 0x80, MASKED = 0x80 };

struct bytes {
    unsigned char *at;
    size_t size, room;
};

struct piece { /* one update of a round: whose, and where it is framed in the room's log */
    int author;
    size_t begin, end;
};

struct room {
    char path[MOST_PATH];
    struct room *next;
    struct bytes log; /* every update so far, framed */
    struct piece *pieces;
    size_t piece_count, piece_room;
    size_t round_begin; /* place in the log */
    int *members;
    size_t member_count, member_room;
};

struct client {
    struct room *room; /* NULL: not upgraded yet */
    struct bytes in, out;
    unsigned long wrote_in; /* number of the round in which it last wrote */
    int is_open;
};

static struct client *clients[MOST_SOCKETS];
static struct room *rooms;
static int poller;
static unsigned long round_number;

static void *grown(void *at, size_t *room, size_t wanted, size_t each)
{
    if (wanted <= *room)
        return at;
    while (*room < wanted)
        *room = *room ? 2 * *room : 64;
    at = realloc(at, *room * each);
    if (!at) {
        perror("memory");
        exit(1);
    }
    return at;
}

static void append(struct bytes *to, const void *data, size_t size)
{
    to->at = grown(to->at, &to->room, to->size + size, 1);
    memcpy(to->at + to->size, data, size);
    to->size += size;
}

static void drop_front(struct bytes *from, size_t size)
{
    memmove(from->at, from->at + size, from->size - size);
    from->size -= size;
}

static uint32_t rotated(uint32_t word, int bits)
{
    return word << bits | word >> (32 - bits);
}

static void sha1_block(uint32_t state[5], const unsigned char *block)
{
    uint32_t words[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 16; i++)
        words[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 80; i++)
        words[i] = rotated(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t mixed = i < 20 ? (b & c) | (~b & d) : i < 40 || i >= 60 ? b ^ c ^ d : (b & c) | (b & d) | (c & d);
        uint32_t constant = i < 20 ? 0x5A827999 : i < 40 ? 0x6ED9EBA1 : i < 60 ? 0x8F1BBCDC : 0xCA62C1D6;
        uint32_t next = rotated(a, 5) + mixed + e + constant + words[i];
        e = d, d = c, c = rotated(b, 30), b = a, a = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

/* Writes Sec-WebSocket-Accept, 28 characters and a zero (RFC 6455, 4.2.2). key: 24 characters. */
static void accept_of(const char *key, char accept[29])
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned char message[128] = {0}, digest[21] = {0};
    uint32_t state[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    memcpy(message, key, 24);
    memcpy(message + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    message[60] = 0x80;
    message[126] = 60 * 8 >> 8, message[127] = 60 * 8 & 0xFF;
    sha1_block(state, message);
    sha1_block(state, message + 64);
    for (int i = 0; i < 20; i++)
        digest[i] = state[i / 4] >> (24 - 8 * (i % 4));
    for (int i = 0; i < 7; i++) {
        uint32_t three = digest[3 * i] << 16 | digest[3 * i + 1] << 8 | digest[3 * i + 2];
        for (int j = 0; j < 4; j++)
            accept[4 * i + j] = letters[three >> (18 - 6 * j) & 63];
    }
    accept[27] = '=';
    accept[28] = 0;
}

static void watch(int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event);
}

static void leave(int fd)
{
    struct client *client = clients[fd];
    if (!client->is_open)
        return;
    client->is_open = 0;
    if (client->room) {
        struct room *room = client->room;
        for (size_t i = 0; i < room->member_count; i++)
            if (room->members[i] == fd)
                room->members[i--] = room->members[--room->member_count];
    }
    free(client->in.at);
    free(client->out.at);
    close(fd);
}

/* Sends what the socket takes, and keeps the rest for when it takes more. */
static void deliver(int fd, const void *data, size_t size)
{
    struct client *client = clients[fd];
    if (client->out.size) {
        append(&client->out, data, size);
        return;
    }
    ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        return; /* its end is read in a later round */
    if (sent < 0)
        sent = 0;
    if ((size_t)sent < size) {
        append(&client->out, (const char *)data + sent, size - sent);
        watch(fd, EPOLLIN | EPOLLOUT);
    }
}

static void flush(int fd)
{
    struct client *client = clients[fd];
    ssize_t sent = send(fd, client->out.at, client->out.size, MSG_NOSIGNAL);
    if (sent > 0)
        drop_front(&client->out, sent);
    if (!client->out.size)
        watch(fd, EPOLLIN);
}

static struct room *room_of(const char *path, size_t length)
{
    for (struct room *room = rooms; room; room = room->next)
        if (strlen(room->path) == length && !memcmp(room->path, path, length))
            return room;
    struct room *room = calloc(1, sizeof *room);
    if (!room)
        exit(1);
    memcpy(room->path, path, length);
    room->next = rooms;
    return rooms = room;
}

/* Answers the upgrade once its head is whole. Returns 0 when the connection has to end. */
static int upgrade(int fd)
{
    static const char wanted[] = "sec-websocket-key:";
    struct client *client = clients[fd];
    char *head = (char *)client->in.at, *end = memmem(head, client->in.size, "\r\n\r\n", 4);
    if (!end)
        return client->in.size < MOST_HEAD;
    *end = 0;
    char *path = strchr(head, ' '), *path_end = path ? strpbrk(++path, " ?\r") : NULL, *key = strcasestr(head, wanted);
    if (!path_end || path_end - path >= MOST_PATH || !key)
        return 0;
    key += strlen(wanted);
    key += strspn(key, " ");
    if (strlen(key) < 24)
        return 0;
    char accept[29], answer[256];
    accept_of(key, accept);
    int size = snprintf(answer, sizeof answer,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Accept: %s\r\n\r\n", accept);
    struct room *room = client->room = room_of(path, path_end - path);
    room->members = grown(room->members, &room->member_room, room->member_count + 1, sizeof *room->members);
    room->members[room->member_count++] = fd;
    deliver(fd, answer, size);
    drop_front(&client->in, end + 4 - head);
    return 1;
}

/* Writes the update into the room's log, as a frame, and notes it for the end of the round. */
static void take_update(int fd, const unsigned char *message, size_t size)
{
    struct room *room = clients[fd]->room;
    unsigned char head[10] = {FINAL | BINARY};
    size_t head_size = size < 126 ? 2 : size < 65536 ? 4 : 10;
    head[1] = head_size == 2 ? size : head_size == 4 ? 126 : 127;
    for (size_t i = 2; i < head_size; i++)
        head[i] = size >> 8 * (head_size - 1 - i);
    if (!room->piece_count)
        room->round_begin = room->log.size;
    size_t begin = room->log.size;
    append(&room->log, head, head_size);
    append(&room->log, message, size);
    room->pieces = grown(room->pieces, &room->piece_room, room->piece_count + 1, sizeof *room->pieces);
    room->pieces[room->piece_count++] = (struct piece){fd, begin, room->log.size};
    clients[fd]->wrote_in = round_number;
}

static void take_message(int fd, const unsigned char *message, size_t size)
{
    static const unsigned char nothing[] = {FINAL | BINARY, 5, 0, 1, 2, 0, 0}; /* SyncStep2 of no structs and no deletes */
    struct room *room = clients[fd]->room;
    if (size < 3 || message[0] != 0)
        return;
    if (message[1] == 0) {
        size_t before = room->piece_count ? room->round_begin : room->log.size; /* the rest follows with the round */
        if (before)
            deliver(fd, room->log.at, before);
        deliver(fd, nothing, sizeof nothing);
    } else if (message[1] == 2) {
        take_update(fd, message, size);
    }
}

/* Takes every frame that is whole. Returns 0 when the connection has to end. */
static int take_frames(int fd)
{
    struct bytes *in = &clients[fd]->in;
    size_t at = 0;
    while (in->size - at >= 6) {
        unsigned char *frame = in->at + at;
        size_t size = frame[1] & 0x7F, width = size < 126 ? 0 : size == 126 ? 2 : 8;
        if (in->size - at < 6 + width)
            break;
        if (width)
            size = 0;
        for (size_t i = 0; i < width; i++)
            size = size << 8 | frame[2 + i];
        if (size > MOST_FRAME || !(frame[1] & MASKED) || !(frame[0] & FINAL) || (frame[0] & 15) == CLOSE)
            return 0;
        if (in->size - at < 6 + width + size)
            break;
        unsigned char *mask = frame + 2 + width, *message = mask + 4;
        for (size_t i = 0; i < size; i++)
            message[i] ^= mask[i & 3];
        if ((frame[0] & 15) == BINARY)
            take_message(fd, message, size);
        at += 6 + width + size;
    }
    drop_front(in, at);
    return 1;
}

static void take(int fd)
{
    static unsigned char data[READ_BYTES];
    ssize_t size = recv(fd, data, sizeof data, 0);
    if (size < 0 && errno == EAGAIN)
        return;
    struct client *client = clients[fd];
    int goes_on = size > 0;
    if (goes_on)
        append(&client->in, data, size);
    if (goes_on && !client->room)
        goes_on = upgrade(fd);
    if (goes_on && client->room)
        goes_on = take_frames(fd);
    if (!goes_on)
        leave(fd);
}

/* Sends what a room's sockets brought in this round to its others; who wrote gets all but the own. */
static void relay(struct room *room)
{
    static struct bytes others;
    for (size_t i = 0; i < room->member_count; i++) {
        int fd = room->members[i];
        if (clients[fd]->wrote_in != round_number) {
            deliver(fd, room->log.at + room->round_begin, room->log.size - room->round_begin);
            continue;
        }
        others.size = 0;
        for (struct piece *piece = room->pieces; piece < room->pieces + room->piece_count; piece++)
            if (piece->author != fd)
                append(&others, room->log.at + piece->begin, piece->end - piece->begin);
        if (others.size)
            deliver(fd, others.at, others.size);
    }
    room->piece_count = 0;
}

static void welcome(int listener)
{
    int fd, yes = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MOST_SOCKETS) {
            close(fd);
            continue;
        }
        if (!clients[fd] && !(clients[fd] = malloc(sizeof(struct client))))
            exit(1);
        *clients[fd] = (struct client){.is_open = 1};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

int main(int count, char **words)
{
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (count != 2)
        return 2;
    address.sin_port = htons(atoi(words[1]));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        perror("listen");
        return 1;
    }
    poller = epoll_create1(0);
    struct epoll_event events[MOST_EVENTS], event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(poller, events, MOST_EVENTS, -1);
        round_number++;
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                continue;
            if (events[i].events & EPOLLOUT && clients[fd]->is_open)
                flush(fd);
            if (events[i].events & ~(uint32_t)EPOLLOUT && clients[fd]->is_open)
                take(fd);
        }
        for (struct room *room = rooms; room; room = room->next)
            if (room->piece_count)
                relay(room);
        for (int i = 0; i < ready; i++)
            if (events[i].data.fd == listener)
                welcome(listener);
    }
}
