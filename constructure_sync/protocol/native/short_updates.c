/* `protocol/short_updates.py`, compiled: the closed part of a short update of a common shape.
 *
 * What is taken, and why, is said there. What is given here is the same for every input: the same part, or the same
 * None, which sends the update the general way.
 */

#include "closing.h"

/* The most delete ranges that are read here: their count is one byte. */
enum { MOST_RANGES = 0x7F };

/* What an update holds: an item or none, and delete ranges of one client or none. */
typedef struct {
    bool has_item;
    uint64_t client, clock, end, nesting; /* of the item */
    uint64_t owner;                       /* of what is deleted */
    size_t range_count;
    struct {
        uint64_t start, stop;
    } ranges[MOST_RANGES];
} Short;

/* --- The item ----------------------------------------------------------------------------------------------------- */

/* The nesting of the struct that a reference means; OTHER: it is not there. */
static Outcome nesting_of_id(const Known *known, Id id, uint64_t *nesting)
{
    uint64_t end;
    Numbers runs;
    Outcome outcome = first_unknown_clock(known, id.client, &end);
    if (outcome != TAKEN)
        return outcome;
    if (id.clock >= end || id.clock > MAX_CLOCK)
        return OTHER;
    outcome = look_into(known->nesting, id.client, &runs);
    if (outcome != TAKEN)
        return outcome;
    size_t place = count_up_to(&runs, id.clock << 16 | 0xFFFF);
    if (place > 0)
        *nesting = runs.numbers[place - 1] & 0xFFFF;
    release(&runs);
    return place > 0 ? TAKEN : OTHER;
}

static Outcome depth_of_id(const Known *known, Reader *reader, uint64_t *depth)
{
    Id id;
    uint64_t nesting;
    if (!read_id(reader, &id))
        return OTHER;
    Outcome outcome = nesting_of_id(known, id, &nesting);
    if (outcome == TAKEN)
        *depth = nesting >> 1;
    return outcome;
}

/* The depth of an item beside its origins, of which there is one or there are two. */
static Outcome depth_beside(const Known *known, Reader *reader, bool are_two, uint64_t *depth)
{
    uint64_t right;
    Outcome outcome = depth_of_id(known, reader, depth);
    if (outcome != TAKEN || !are_two)
        return outcome;
    outcome = depth_of_id(known, reader, &right);
    if (outcome != TAKEN || *depth == right)
        return outcome;
    if (*depth != GONE_DEPTH && right != GONE_DEPTH)
        return OTHER;
    *depth = GONE_DEPTH;
    return TAKEN;
}

/* The depth of an item that names its parent: a root or an item. */
static Outcome depth_below(const Known *known, Reader *reader, bool has_key, uint64_t *depth)
{
    uint8_t is_root;
    Id id;
    uint64_t parent;
    if (!read_byte(reader, &is_root) || is_root > 1)
        return OTHER;
    if (is_root) {
        if (!skip_string(reader))
            return OTHER;
        *depth = 1;
    } else {
        if (!read_id(reader, &id))
            return OTHER;
        Outcome outcome = nesting_of_id(known, id, &parent);
        if (outcome != TAKEN)
            return outcome;
        if (!(parent & MAY_BE_PARENT))
            return OTHER;
        *depth = parent >> 1 == GONE_DEPTH ? GONE_DEPTH : (parent >> 1) + 1;
    }
    return !has_key || skip_string(reader) ? TAKEN : OTHER;
}

static bool read_content(const Known *known, Reader *reader, int kind, uint64_t *length)
{
    switch (kind) {
    case STRING:
        return read_string_content(reader, length);
    case TYPE:
        return read_type_content(reader, length);
    case ANY:
        return read_any_content(reader, known->limits.max_any_depth, length);
    default:
        return false;
    }
}

/* Read the only struct of the only section; OTHER unless it follows on what is known. */
static Outcome read_item(const Known *known, Reader *reader, Short *read)
{
    uint8_t structs, info;
    Id id;
    uint64_t expected, depth, length;
    if (!read_byte(reader, &structs) || structs != 1 || !read_id(reader, &id))
        return OTHER;
    Outcome outcome = first_unknown_clock(known, id.client, &expected);
    if (outcome != TAKEN)
        return outcome;
    if (id.clock != expected || !read_byte(reader, &info))
        return OTHER;
    int origins = info & (HAS_ORIGIN | HAS_RIGHT_ORIGIN);
    if (origins)
        outcome = depth_beside(known, reader, origins == (HAS_ORIGIN | HAS_RIGHT_ORIGIN), &depth);
    else
        outcome = depth_below(known, reader, info & HAS_PARENT_KEY, &depth);
    if (outcome != TAKEN)
        return outcome;
    int kind = info & REFERENCE;
    if (depth > known->limits.max_depth || !read_content(known, reader, kind, &length) || id.clock + length > MAX_CLOCK)
        return OTHER;
    read->has_item = true;
    read->client = id.client;
    read->clock = id.clock;
    read->end = id.clock + length;
    read->nesting = depth << 1 | (kind == TYPE);
    return TAKEN;
}

/* --- The delete set ----------------------------------------------------------------------------------------------- */

/* Read the ranges; OTHER unless each names something that is there and not yet deleted. */
static Outcome read_ranges(Reader *reader, uint64_t end, const Numbers *deleted, Short *read)
{
    for (size_t place = 0; place < read->range_count; place++) {
        uint64_t start, length;
        if (!read_var_uint(reader, &start) || !read_var_uint(reader, &length))
            return OTHER;
        uint64_t stop = start + length;
        if (length == 0 || stop > end || (deleted != NULL && !is_disjoint(deleted, start, stop)))
            return OTHER;
        read->ranges[place].start = start;
        read->ranges[place].stop = stop;
    }
    return TAKEN;
}

/* Look up what is there of the client and what of it is deleted, and read its ranges. */
static Outcome read_ranges_of(const Known *known, Reader *reader, Short *read)
{
    uint64_t end;
    Numbers deleted;
    Outcome outcome = first_unknown_clock(known, read->owner, &end);
    if (outcome != TAKEN)
        return outcome;
    if (read->has_item && read->client == read->owner)
        end = read->end;
    outcome = look_into(known->bounds, read->owner, &deleted);
    if (outcome == OTHER)
        return read_ranges(reader, end, NULL, read);
    if (outcome == TAKEN) {
        outcome = read_ranges(reader, end, &deleted, read);
        release(&deleted);
    }
    return outcome;
}

/* Read the delete set, of at most one client, up to the end of the update. */
static Outcome read_deletes(const Known *known, Reader *reader, Short *read)
{
    uint8_t owners, count = 0;
    Outcome outcome = TAKEN;
    if (!read_byte(reader, &owners) || owners > 1)
        return OTHER;
    if (owners == 1) {
        if (!read_var_uint(reader, &read->owner) || !read_byte(reader, &count))
            return OTHER;
        if (count == 0 || count > MOST_RANGES || count > known->limits.max_delete_ranges)
            return OTHER;
        read->range_count = count;
        outcome = read_ranges_of(known, reader, read);
    }
    return outcome == TAKEN && bytes_left(reader) > 0 ? OTHER : outcome;
}

/* Read the update. What neither adds nor deletes is left to the general way. */
static Outcome read_short(const Known *known, Reader *reader, Short *read)
{
    uint8_t sections;
    Outcome outcome = TAKEN;
    read->has_item = false;
    read->range_count = 0;
    if (!read_byte(reader, &sections) || sections > 1)
        return OTHER;
    if (sections == 1)
        outcome = read_item(known, reader, read);
    if (outcome == TAKEN)
        outcome = read_deletes(known, reader, read);
    return outcome == TAKEN && !read->has_item && read->range_count == 0 ? OTHER : outcome;
}

/* --- The part ----------------------------------------------------------------------------------------------------- */

/* A tuple that holds one tuple of the numbers; without numbers an empty one. */
static PyObject *tuple_around(const uint64_t *numbers, Py_ssize_t count)
{
    PyObject *outer = PyTuple_New(count > 0);
    if (outer == NULL || count == 0)
        return outer;
    PyObject *inner = tuple_of(numbers, count);
    if (inner == NULL) {
        Py_DECREF(outer);
        return NULL;
    }
    PyTuple_SET_ITEM(outer, 0, inner);
    PyObject_GC_UnTrack(outer);
    return outer;
}

static PyObject *tuple_of_deletes(const Short *read)
{
    PyObject *tuple = PyTuple_New((Py_ssize_t)read->range_count);
    if (tuple == NULL || read->range_count == 0)
        return tuple;
    for (size_t place = 0; place < read->range_count; place++) {
        uint64_t range[] = {read->owner, read->ranges[place].start, read->ranges[place].stop};
        PyObject *inner = tuple_of(range, 3);
        if (inner == NULL) {
            Py_DECREF(tuple);
            return NULL;
        }
        PyTuple_SET_ITEM(tuple, (Py_ssize_t)place, inner);
    }
    PyObject_GC_UnTrack(tuple);
    return tuple;
}

static PyObject *part_of(const State *state, PyObject *update, const Short *read)
{
    const uint64_t run[] = {read->client, read->clock, read->end, read->nesting};
    PyObject *fields[PART_FIELDS] = {
        Py_NewRef(update),
        tuple_around(run, read->has_item ? 3 : 0), /* a range is a run without its nesting */
        tuple_of_deletes(read),
        tuple_around(run, read->has_item ? 4 : 0),
        PyTuple_New(0),
    };
    return make_part(state, fields);
}

/* --- The function ------------------------------------------------------------------------------------------------- */

static bool read_limit(PyObject *limits, PyObject *name, uint64_t *limit)
{
    PyObject *value = PyObject_GetAttr(limits, name);
    if (value == NULL)
        return false;
    *limit = PyLong_AsUnsignedLongLong(value);
    Py_DECREF(value);
    return !PyErr_Occurred();
}

/* Take the arguments apart; false: an exception is set. After true `known->bounds` is owned. */
static bool read_arguments(const State *state, PyObject *const *arguments, Py_ssize_t count, Known *known)
{
    if (count != 5 || !PyBytes_Check(arguments[0]) || !PyDict_Check(arguments[1]) || !PyDict_Check(arguments[2])) {
        PyErr_SetString(PyExc_TypeError, "close_short takes bytes, two dictionaries, IdRanges and UpdateLimits");
        return false;
    }
    known->clocks = arguments[1];
    known->nesting = arguments[2];
    PyObject *limits = arguments[4];
    if (!read_limit(limits, state->max_depth, &known->limits.max_depth) ||
        !read_limit(limits, state->max_any_depth, &known->limits.max_any_depth) ||
        !read_limit(limits, state->max_delete_ranges, &known->limits.max_delete_ranges))
        return false;
    if (known->limits.max_any_depth > DEEPEST_ANY)
        known->limits.max_any_depth = DEEPEST_ANY;
    known->bounds = PyObject_GetAttr(arguments[3], state->bounds);
    if (known->bounds != NULL && !PyDict_Check(known->bounds)) {
        Py_CLEAR(known->bounds);
        PyErr_SetString(PyExc_TypeError, "the bounds of IdRanges are no dictionary");
    }
    return known->bounds != NULL;
}

PyObject *close_short(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    const State *state = PyModule_GetState(module);
    Known known;
    Short read = {0};
    if (!read_arguments(state, arguments, count, &known))
        return NULL;
    PyObject *update = arguments[0];
    Reader reader = reader_of(PyBytes_AS_STRING(update), (size_t)PyBytes_GET_SIZE(update));
    Outcome outcome = read_short(&known, &reader, &read);
    Py_DECREF(known.bounds);
    switch (outcome) {
    case TAKEN:
        return part_of(state, update, &read);
    case OTHER:
        Py_RETURN_NONE;
    default:
        return NULL;
    }
}
