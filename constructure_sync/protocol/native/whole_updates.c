/* A fast way through `protocol/closing.py`, compiled: the closed part of an update of which all structs are new, follow on
 * what is known, and refer only to what is known or stands before them.
 *
 * That is nearly everything that stock clients send: a transaction of several items, an afternoon's work of a client that
 * was offline. What is given is the same as the general way gives; None sends the update there: what must wait for
 * something, or is known in part, or is malformed. One pass in the order of the bytes; its memory is in proportion to what
 * was read.
 */

#include "whole_updates.h"

#include <stdlib.h>

/* --- Memory ------------------------------------------------------------------------------------------------------- */

static void let_go_of_authors(Closing *closing)
{
    for (size_t place = 0; place < closing->author_count; place++)
        if (closing->authors[place].has_runs)
            release(&closing->authors[place].runs);
}

static void free_spans(Closing *closing)
{
    PyMem_Free(closing->runs.spans);
    PyMem_Free(closing->explicit.spans);
    PyMem_Free(closing->implied.spans);
    PyMem_Free(closing->texts.spans);
    PyMem_Free(closing->owners.spans);
}

/* --- What there is ------------------------------------------------------------------------------------------------ */

/* A client that was met before, or NULL. */
static Author *find_author(Closing *closing, uint64_t client)
{
    for (size_t place = 0; place < closing->author_count; place++)
        if (closing->authors[place].client == client)
            return &closing->authors[place];
    return NULL;
}

static Outcome author_of(Closing *closing, uint64_t client, Author **author)
{
    *author = find_author(closing, client);
    if (*author != NULL)
        return TAKEN;
    if (closing->author_count == MOST_AUTHORS)
        return OTHER;
    Author *made = &closing->authors[closing->author_count];
    Outcome outcome = first_unknown_clock(&closing->known, client, &made->known);
    if (outcome != TAKEN)
        return outcome;
    outcome = look_into(closing->known.nesting, client, &made->runs);
    if (outcome == RAISED)
        return outcome;
    made->client = client;
    made->reached = made->known;
    made->has_runs = outcome == TAKEN;
    made->has_section = false;
    closing->author_count++;
    *author = made;
    return TAKEN;
}

/* The nesting at a clock that was read in this update. */
static uint64_t new_nesting_at(const Closing *closing, const Author *author, uint64_t clock)
{
    const Span *runs = closing->runs.spans + author->first;
    size_t low = 0, high = author->run_count - 1;
    while (low < high) {
        size_t middle = high - (high - low) / 2;
        if (runs[middle].start <= clock)
            low = middle;
        else
            high = middle - 1;
    }
    return runs[low].nesting;
}

/* The nesting of the struct that a reference means; OTHER: it is not there. */
static Outcome nesting_of_id(Closing *closing, uint64_t *nesting)
{
    Id id;
    Author *author;
    if (!read_id(&closing->reader, &id))
        return OTHER;
    Outcome outcome = author_of(closing, id.client, &author);
    if (outcome != TAKEN)
        return outcome;
    if (id.clock >= author->reached || id.clock > MAX_CLOCK)
        return OTHER;
    if (id.clock >= author->known) {
        *nesting = new_nesting_at(closing, author, id.clock);
        return TAKEN;
    }
    size_t place = author->has_runs ? count_up_to(&author->runs, id.clock << 16 | 0xFFFF) : 0;
    if (place == 0)
        return OTHER;
    *nesting = author->runs.numbers[place - 1] & 0xFFFF;
    return TAKEN;
}

/* --- Structs ------------------------------------------------------------------------------------------------------ */

/* The depth of an item beside its origins, of which there is one or there are two. */
static Outcome depth_beside(Closing *closing, bool are_two, uint64_t *depth)
{
    uint64_t nesting, right;
    Outcome outcome = nesting_of_id(closing, &nesting);
    if (outcome != TAKEN)
        return outcome;
    *depth = nesting >> 1;
    if (!are_two)
        return TAKEN;
    outcome = nesting_of_id(closing, &right);
    if (outcome != TAKEN || right >> 1 == *depth)
        return outcome;
    if (*depth != GONE_DEPTH && right >> 1 != GONE_DEPTH)
        return OTHER;
    *depth = GONE_DEPTH;
    return TAKEN;
}

/* The depth of an item that names its parent: a root or an item. */
static Outcome depth_below(Closing *closing, bool has_key, uint64_t *depth)
{
    Reader *reader = &closing->reader;
    uint8_t is_root;
    uint64_t parent;
    if (!read_byte(reader, &is_root) || is_root > 1)
        return OTHER;
    if (is_root) {
        if (!skip_string(reader))
            return OTHER;
        *depth = 1;
    } else {
        Outcome outcome = nesting_of_id(closing, &parent);
        if (outcome != TAKEN)
            return outcome;
        if (!(parent & MAY_BE_PARENT))
            return OTHER;
        *depth = parent >> 1 == GONE_DEPTH ? GONE_DEPTH : (parent >> 1) + 1;
    }
    return !has_key || skip_string(reader) ? TAKEN : OTHER;
}

static Outcome read_item(Closing *closing, int info, uint64_t *depth, uint64_t *length)
{
    Content content;
    int origins = info & (HAS_ORIGIN | HAS_RIGHT_ORIGIN);
    Outcome outcome = origins ? depth_beside(closing, origins == (HAS_ORIGIN | HAS_RIGHT_ORIGIN), depth)
                              : depth_below(closing, info & HAS_PARENT_KEY, depth);
    if (outcome != TAKEN)
        return outcome;
    const Limits *limits = &closing->known.limits;
    if (*depth > limits->max_depth || *depth > DEEPEST_DEPTH ||
        !read_item_content(&closing->reader, info & REFERENCE, limits->max_any_depth, &content))
        return OTHER;
    closing->subdocs += (info & REFERENCE) == DOC;
    *length = content.length;
    if (!content.has_json)
        return TAKEN;
    return add_span(&closing->texts, (Span){.start = content.json_start, .end = content.json_start + content.json_size});
}

/* Note how a struct hangs: it makes the last run of its section longer, or begins the next one. */
static Outcome take_struct(Closing *closing, Author *author, int kind, uint64_t depth, uint64_t length)
{
    uint64_t start = author->reached, end = start + length;
    uint64_t nesting = depth << 1 | (kind == GC || kind == DELETED || kind == TYPE);
    Span *last = author->run_count > 0 ? &closing->runs.spans[closing->runs.count - 1] : NULL;
    Span span = {.client = author->client, .start = start, .end = end, .nesting = nesting};
    Outcome outcome = TAKEN;
    if (end > MAX_CLOCK)
        return OTHER;
    if (last != NULL && last->nesting == nesting) {
        last->end = end;
    } else {
        outcome = add_span(&closing->runs, span);
        author->run_count++;
    }
    author->reached = end;
    if (outcome == TAKEN && kind <= DELETED)
        outcome = add_span(&closing->implied, span);
    return outcome;
}

static Outcome read_struct(Closing *closing, Author *author)
{
    uint8_t info;
    uint64_t depth = GONE_DEPTH, length;
    if (!read_byte(&closing->reader, &info))
        return OTHER;
    int kind = info & REFERENCE;
    Outcome outcome;
    if (kind == GC)
        outcome = info == GC && read_bare_length(&closing->reader, &length) ? TAKEN : OTHER;
    else
        outcome = read_item(closing, info, &depth, &length);
    return outcome == TAKEN ? take_struct(closing, author, kind, depth, length) : outcome;
}

static Outcome read_section(Closing *closing)
{
    Reader *reader = &closing->reader;
    const Limits *limits = &closing->known.limits;
    Author *author;
    Id first;
    uint64_t count;
    if (!read_var_uint(reader, &count) || count == 0 || !read_id(reader, &first) || count * 2 > bytes_left(reader))
        return OTHER;
    Outcome outcome = author_of(closing, first.client, &author);
    if (outcome != TAKEN)
        return outcome;
    closing->structs += count;
    if (author->has_section || first.clock != author->known || closing->structs > limits->max_structs)
        return OTHER;
    author->has_section = true;
    author->first = closing->runs.count;
    author->run_count = 0;
    size_t start = reader->position;
    for (uint64_t left = count; left > 0 && outcome == TAKEN; left--)
        outcome = read_struct(closing, author);
    closing->sections[closing->section_count++] =
        (Section){.author = author, .count = count, .start = start, .stop = reader->position};
    return outcome == TAKEN && closing->subdocs > limits->max_subdocs ? OTHER : outcome;
}

static Outcome read_sections(Closing *closing)
{
    uint64_t count;
    Outcome outcome = TAKEN;
    if (!read_var_uint(&closing->reader, &count) || count > MOST_AUTHORS || count > closing->known.limits.max_clients ||
        count * 5 > bytes_left(&closing->reader))
        return OTHER;
    while (count-- && outcome == TAKEN)
        outcome = read_section(closing);
    return outcome;
}

/* --- The delete set ----------------------------------------------------------------------------------------------- */

/* Keep what of a range is not yet deleted: `IdRanges.missing`. bounds: of what is deleted, or NULL. */
static Outcome keep_new(Closing *closing, Span range, const Numbers *bounds)
{
    size_t count = bounds == NULL ? 0 : bounds->count, place = count == 0 ? 0 : count_up_to(bounds, range.start);
    uint64_t stop = range.end;
    Outcome outcome = TAKEN;
    if (place % 2 == 0 && (place == count || stop <= bounds->numbers[place]))
        return add_span(&closing->explicit, range);
    closing->is_whole = false;
    if (place % 2 == 1 && place < count)
        range.start = bounds->numbers[place++];
    while (range.start < stop && outcome == TAKEN) {
        range.end = place < count && bounds->numbers[place] < stop ? bounds->numbers[place] : stop;
        outcome = add_span(&closing->explicit, range);
        range.start = place + 1 < count ? bounds->numbers[place + 1] : stop;
        place += 2;
    }
    return outcome;
}

/* Read the ranges of one client. OTHER: something of them is not there, or they are not in order; so the work is no more
 * than their number and that of the bounds. reached: the first clock that is not there. */
static Outcome read_ranges(Closing *closing, Span range, uint64_t count, uint64_t reached, const Numbers *bounds)
{
    Reader *reader = &closing->reader;
    uint64_t start, length;
    Outcome outcome = TAKEN;
    while (count-- && outcome == TAKEN) {
        size_t kept = closing->explicit.count;
        if (!read_var_uint(reader, &start) || !read_var_uint(reader, &length) || length == 0 || start < range.end)
            return OTHER;
        range.start = start;
        range.end = start + length;
        outcome = keep_new(closing, range, bounds);
        bool is_there = range.end <= reached || closing->explicit.count == kept;
        if (outcome == TAKEN && (!is_there || range.end > MAX_CLOCK))
            return OTHER;
    }
    return outcome;
}

static Outcome read_ranges_of(Closing *closing, uint64_t owner, uint64_t count)
{
    const Author *author = find_author(closing, owner);
    uint64_t reached = author == NULL ? 0 : author->reached;
    Numbers bounds;
    Outcome outcome = author == NULL ? first_unknown_clock(&closing->known, owner, &reached) : TAKEN;
    if (outcome != TAKEN)
        return outcome;
    outcome = look_into(closing->known.bounds, owner, &bounds);
    if (outcome == OTHER)
        return read_ranges(closing, (Span){.client = owner}, count, reached, NULL);
    if (outcome == TAKEN) {
        outcome = read_ranges(closing, (Span){.client = owner}, count, reached, &bounds);
        release(&bounds);
    }
    return outcome;
}

static int by_client(const void *one, const void *other)
{
    uint64_t client = ((const Span *)one)->client, against = ((const Span *)other)->client;
    return client < against ? -1 : client > against;
}

/* Whether a client is named twice, by those that were read so far. Yjs writes them from the highest one down, so that a look
 * at the last is enough; yrs writes them in any order, and then all are sorted at the end. */
static bool names_one_twice(Spans *owners)
{
    qsort(owners->spans, owners->count, sizeof *owners->spans, by_client);
    for (size_t place = 1; place < owners->count; place++) {
        if (owners->spans[place].client == owners->spans[place - 1].client)
            return true;
    }
    return false;
}

/* Read the delete set up to the end of the update. */
static Outcome read_deletes(Closing *closing)
{
    Reader *reader = &closing->reader;
    uint64_t owners, owner, count, last = UINT64_MAX;
    bool falls = true;
    Outcome outcome = TAKEN;
    if (!read_var_uint(reader, &owners) || owners * 2 > bytes_left(reader))
        return OTHER;
    while (owners-- && outcome == TAKEN) {
        if (!read_var_uint(reader, &owner) || !read_var_uint(reader, &count))
            return OTHER;
        falls = falls && owner < last;
        if (add_span(&closing->owners, (Span){.client = owner}) != TAKEN)
            return RAISED;
        closing->ranges += count;
        if (count * 2 > bytes_left(reader) || closing->ranges > closing->known.limits.max_delete_ranges)
            return OTHER;
        if (count == 0)
            closing->is_whole = false;
        outcome = read_ranges_of(closing, owner, count);
        last = owner;
    }
    if (outcome == TAKEN && (bytes_left(reader) > 0 || (!falls && names_one_twice(&closing->owners))))
        return OTHER;
    return outcome;
}

/* --- The function ------------------------------------------------------------------------------------------------- */

/* Take the arguments apart. RAISED: they are others; OTHER: the limits are. After TAKEN `known.bounds` is owned. */
static Outcome read_arguments(Closing *closing, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 5 || !PyBytes_Check(arguments[0]) || !PyDict_Check(arguments[1]) || !PyDict_Check(arguments[2])) {
        PyErr_SetString(PyExc_TypeError, "close_whole takes bytes, two dictionaries, IdRanges and UpdateLimits");
        return RAISED;
    }
    if (!take_limits(closing->state, arguments[4]))
        return OTHER;
    closing->reader = reader_of(PyBytes_AS_STRING(arguments[0]), (size_t)PyBytes_GET_SIZE(arguments[0]));
    closing->known = (Known){.clocks = arguments[1],
                             .nesting = arguments[2],
                             .bounds = PyObject_GetAttr(arguments[3], closing->state->bounds),
                             .limits = closing->state->limits};
    if (closing->known.bounds == NULL)
        return RAISED;
    if (PyDict_Check(closing->known.bounds))
        return TAKEN;
    Py_CLEAR(closing->known.bounds);
    PyErr_SetString(PyExc_TypeError, "the bounds of IdRanges are no dictionary");
    return RAISED;
}

/* Read all; afterwards nothing of what is known is held any longer, as Python may be asked now. */
static Outcome read_all(Closing *closing)
{
    Outcome outcome = read_sections(closing);
    if (outcome == TAKEN)
        outcome = read_deletes(closing);
    let_go_of_authors(closing);
    Py_CLEAR(closing->known.bounds);
    return outcome;
}

PyObject *close_whole(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    Closing closing;
    closing.state = PyModule_GetState(module);
    closing.is_whole = true;
    closing.author_count = closing.section_count = 0;
    closing.structs = closing.subdocs = closing.ranges = 0;
    closing.runs = closing.explicit = closing.implied = closing.texts = closing.owners = (Spans){0};
    PyObject *part = NULL;
    Outcome outcome = read_arguments(&closing, arguments, count);
    if (outcome == TAKEN) {
        outcome = read_all(&closing);
        if (outcome == TAKEN)
            part = part_of_whole(&closing, arguments[0]);
        free_spans(&closing);
    }
    return outcome == OTHER ? Py_NewRef(Py_None) : part;
}
