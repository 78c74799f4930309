/* Bounded reading of lib0's encoding out of hostile bytes.
 *
 * Every function reads at the cursor and moves it on, and gives false when the bytes are not what they should be: what
 * the same reader in Python (`lib0.py`, `update_reader.py`) says is wrong with them, it is asked for. No function reads
 * at or beyond `size`; none allocates; none touches a Python object.
 */

#ifndef CONSTRUCTURE_READER_H
#define CONSTRUCTURE_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define MAX_SAFE_INTEGER ((UINT64_C(1) << 53) - 1)
#define MAX_VAR_BYTES 10
#define MAX_CLOCK UINT64_C(0xFFFFFFFF)

/* Content references and the bits of the info byte. */
enum { GC = 0, DELETED = 1, BINARY = 3, STRING = 4, EMBED = 5, FORMAT = 6, TYPE = 7, ANY = 8, DOC = 9, SKIP = 10 };
enum { HAS_ORIGIN = 0x80, HAS_RIGHT_ORIGIN = 0x40, HAS_PARENT_KEY = 0x20, REFERENCE = 0x1F };

enum { TYPE_REFERENCES = 7, XML_ELEMENT = 3, XML_HOOK = 5, ANY_OBJECT = 118 };

typedef struct {
    const uint8_t *data;
    size_t size;
    size_t position; /* never beyond `size` */
} Reader;

static inline Reader reader_of(const void *data, size_t size)
{
    return (Reader){.data = data, .size = size, .position = 0};
}

static inline size_t bytes_left(const Reader *reader)
{
    return reader->size - reader->position;
}

static inline bool read_byte(Reader *reader, uint8_t *byte)
{
    if (reader->position >= reader->size)
        return false;
    *byte = reader->data[reader->position++];
    return true;
}

/* A varUint of at most ten bytes and 2^53-1. */
static inline bool read_var_uint(Reader *reader, uint64_t *number)
{
    size_t left = bytes_left(reader);
    const uint8_t *bytes = reader->data + reader->position;
    size_t most = left < MAX_VAR_BYTES ? left : MAX_VAR_BYTES;
    uint64_t value = 0;
    for (size_t place = 0; place < most; place++) {
        uint64_t bits = bytes[place] & 0x7F;
        /* Nine bytes are 63 bits. Of the tenth one bit fits, but any bit of it at all is too many. */
        value |= (place < 9 ? bits : bits != 0) << 7 * place;
        if (bytes[place] < 0x80) {
            if (value > MAX_SAFE_INTEGER)
                return false;
            reader->position += place + 1;
            *number = value;
            return true;
        }
    }
    return false;
}

/* A byte string that carries its length in front; `start` is where it lies in the data. */
static inline bool read_slice(Reader *reader, size_t *start, size_t *length)
{
    uint64_t declared;
    if (!read_var_uint(reader, &declared) || declared > bytes_left(reader))
        return false;
    *start = reader->position;
    *length = (size_t)declared;
    reader->position += *length;
    return true;
}

static inline bool skip_slice(Reader *reader)
{
    size_t start, length;
    return read_slice(reader, &start, &length);
}

/* How many of the bytes are ASCII before the first that is not. */
static inline size_t ascii_prefix(const uint8_t *text, size_t length)
{
    size_t place = 0;
    while (length - place >= 8) {
        uint64_t eight;
        memcpy(&eight, text + place, 8);
        if (eight & UINT64_C(0x8080808080808080))
            break;
        place += 8;
    }
    while (place < length && text[place] < 0x80)
        place++;
    return place;
}

/* How many bytes the well-formed UTF-8 character takes that begins with a byte of 0x80 or more; 0: ill-formed.
 * The bounds of the second byte refuse overlong forms, surrogates and what lies beyond U+10FFFF (Unicode, table 3-7). */
static inline size_t character_size(const uint8_t *text, size_t length)
{
    uint8_t first = text[0], lowest = 0x80, highest = 0xBF;
    size_t size;
    if (first < 0xC2 || first > 0xF4)
        return 0;
    size = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    if (size > length)
        return 0;
    if (first == 0xE0)
        lowest = 0xA0;
    else if (first == 0xED)
        highest = 0x9F;
    else if (first == 0xF0)
        lowest = 0x90;
    else if (first == 0xF4)
        highest = 0x8F;
    if (text[1] < lowest || text[1] > highest)
        return 0;
    for (size_t place = 2; place < size; place++)
        if ((text[place] & 0xC0) != 0x80)
            return 0;
    return size;
}

/* The length of UTF-8 text in UTF-16 code units, which is how Yjs counts; false: ill-formed. */
static inline bool utf16_length(const uint8_t *text, size_t length, uint64_t *units)
{
    size_t place = ascii_prefix(text, length);
    uint64_t counted = place;
    while (place < length) {
        size_t size = character_size(text + place, length - place);
        if (size == 0)
            return false;
        place += size;
        counted += size == 4 ? 2 : 1;
        size_t plain = ascii_prefix(text + place, length - place);
        place += plain;
        counted += plain;
    }
    *units = counted;
    return true;
}

/* A string and its length in UTF-16 code units. */
static inline bool read_text(Reader *reader, uint64_t *units)
{
    size_t start, length;
    if (!read_slice(reader, &start, &length))
        return false;
    return utf16_length(reader->data + start, length, units);
}

static inline bool skip_string(Reader *reader)
{
    uint64_t units;
    return read_text(reader, &units);
}

/* A varInt whose magnitude is at most 2^53-1. */
static inline bool skip_var_int(Reader *reader)
{
    size_t start = reader->position;
    uint8_t first;
    uint64_t rest;
    if (!read_byte(reader, &first))
        return false;
    if (first < 0x80)
        return true;
    return read_var_uint(reader, &rest) && reader->position - start <= MAX_VAR_BYTES && rest >> 47 == 0;
}

static inline bool skip_bytes(Reader *reader, size_t count)
{
    if (count > bytes_left(reader))
        return false;
    reader->position += count;
    return true;
}

/* The deepest nesting of plain values that is followed, whatever the limits say: more could exhaust the stack. */
#define DEEPEST_ANY 1000

static inline bool skip_any(Reader *reader, uint64_t depth_left);

/* The entries of an array (117) or of an object (118), in which a key comes before each. */
static inline bool skip_entries(Reader *reader, bool keyed, uint64_t depth_left)
{
    uint64_t count;
    if (depth_left == 0 || !read_var_uint(reader, &count) || count * (keyed ? 2 : 1) > bytes_left(reader))
        return false;
    while (count--)
        if ((keyed && !skip_string(reader)) || !skip_any(reader, depth_left - 1))
            return false;
    return true;
}

/* One lib0 `Any` value, which may nest `depth_left` (at most DEEPEST_ANY) arrays and objects. */
static inline bool skip_any(Reader *reader, uint64_t depth_left)
{
    uint8_t tag;
    if (!read_byte(reader, &tag))
        return false;
    switch (tag) {
    case 127: /* undefined */
    case 126: /* null */
    case 121: /* false */
    case 120: /* true */
        return true;
    case 125:
        return skip_var_int(reader);
    case 124: /* 32-bit float */
        return skip_bytes(reader, 4);
    case 123: /* 64-bit float */
    case 122: /* 64-bit integer */
        return skip_bytes(reader, 8);
    case 119:
        return skip_string(reader);
    case 118:
    case 117:
        return skip_entries(reader, tag == 118, depth_left);
    case 116:
        return skip_slice(reader);
    default:
        return false;
    }
}

/* ContentString: its length in clocks is that in UTF-16 code units. */
static inline bool read_string_content(Reader *reader, uint64_t *length)
{
    return read_text(reader, length) && *length > 0;
}

/* ContentType; one clock long. */
static inline bool read_type_content(Reader *reader, uint64_t *length)
{
    uint64_t reference;
    if (!read_var_uint(reader, &reference) || reference >= TYPE_REFERENCES || reference == XML_HOOK)
        return false;
    *length = 1;
    return reference != XML_ELEMENT || skip_string(reader);
}

/* ContentAny: one clock per value. */
static inline bool read_any_content(Reader *reader, uint64_t max_any_depth, uint64_t *length)
{
    if (!read_var_uint(reader, length) || *length == 0 || *length > bytes_left(reader))
        return false;
    for (uint64_t left = *length; left > 0; left--)
        if (!skip_any(reader, max_any_depth))
            return false;
    return true;
}

/* The length of a GC, Skip or ContentDeleted. */
static inline bool read_bare_length(Reader *reader, uint64_t *length)
{
    return read_var_uint(reader, length) && *length > 0;
}

static inline bool is_word(const uint8_t *text, size_t length, const char *word)
{
    return length == strlen(word) && memcmp(text, word, length) == 0;
}

/* Whether well-formed UTF-8 is, at a glance, one of the JSON texts that formats mostly have: true, false, null or a
 * string without escapes. */
static inline bool is_plain_json(const uint8_t *text, size_t length)
{
    if (length < 2 || text[0] != '"' || text[length - 1] != '"')
        return is_word(text, length, "true") || is_word(text, length, "false") || is_word(text, length, "null");
    for (size_t place = 1; place < length - 1; place++)
        if (text[place] < ' ' || text[place] == '"' || text[place] == '\\')
            return false;
    return true;
}

/* What is told of the content of an item. */
typedef struct {
    uint64_t length; /* in clocks */
    bool has_json;   /* a text that is left for `update_reader.check_json` to judge */
    size_t json_start, json_size;
} Content;

/* The JSON of a ContentEmbed or ContentFormat. */
static inline bool read_json(Reader *reader, Content *content)
{
    uint64_t units;
    if (!read_slice(reader, &content->json_start, &content->json_size))
        return false;
    const uint8_t *text = reader->data + content->json_start;
    if (!utf16_length(text, content->json_size, &units))
        return false;
    content->has_json = !is_plain_json(text, content->json_size);
    return true;
}

/* The options of a ContentDoc are an object. */
static inline bool read_doc(Reader *reader, uint64_t max_any_depth)
{
    if (!skip_string(reader) || bytes_left(reader) == 0 || reader->data[reader->position] != ANY_OBJECT)
        return false;
    return skip_any(reader, max_any_depth);
}

/* The content of an item, but for the grammar of its JSON. */
static inline bool read_item_content(Reader *reader, int kind, uint64_t max_any_depth, Content *content)
{
    *content = (Content){.length = 1};
    switch (kind) {
    case DELETED:
        return read_bare_length(reader, &content->length);
    case BINARY:
        return skip_slice(reader);
    case STRING:
        return read_string_content(reader, &content->length);
    case EMBED:
        return read_json(reader, content);
    case FORMAT:
        return skip_string(reader) && read_json(reader, content);
    case TYPE:
        return read_type_content(reader, &content->length);
    case ANY:
        return read_any_content(reader, max_any_depth, &content->length);
    case DOC:
        return read_doc(reader, max_any_depth);
    default:
        return false;
    }
}

#endif
