/* What the fast ways to close an update share: looking into what is known, and making the part.
 */

#ifndef CONSTRUCTURE_CLOSING_H
#define CONSTRUCTURE_CLOSING_H

#include "module.h"
#include "reader.h"

/* A result together with what may come instead of one. */
typedef enum {
    RAISED = -1, /* a Python exception is set */
    OTHER = 0,   /* no shape that is known here: the general way decides */
    TAKEN = 1,
} Outcome;

/* What is known of the document, and the limits of one update. The objects are borrowed, but for `bounds`. */
typedef struct {
    PyObject *clocks;  /* per client the first clock that is not known */
    PyObject *nesting; /* per client an array of runs, see `closing.pack` */
    PyObject *bounds;  /* per client an array of the bounds of what is deleted, see `IdRanges` */
    Limits limits;
} Known;

typedef struct {
    uint64_t client, clock;
} Id;

/* The numbers of an `array('Q')`, which nobody changes until `release`. */
typedef struct {
    Py_buffer view;
    const uint64_t *numbers;
    size_t count;
} Numbers;

/* The depth of what no longer hangs anywhere, and the bit of what may be a parent: `closing.GONE`, `MAY_BE_PARENT`. */
enum { GONE_DEPTH = 0, MAY_BE_PARENT = 1 };

/* --- What is known ------------------------------------------------------------------------------------------------ */

/* The entry of a client in a dictionary, borrowed; NULL when there is none or an exception is set. */
static inline PyObject *entry_of(PyObject *dictionary, uint64_t client)
{
    PyObject *key = PyLong_FromUnsignedLongLong(client);
    if (key == NULL)
        return NULL;
    PyObject *entry = PyDict_GetItemWithError(dictionary, key);
    Py_DECREF(key);
    return entry;
}

static inline Outcome first_unknown_clock(const Known *known, uint64_t client, uint64_t *clock)
{
    PyObject *entry = entry_of(known->clocks, client);
    *clock = 0;
    if (entry != NULL)
        *clock = PyLong_AsUnsignedLongLong(entry);
    return PyErr_Occurred() ? RAISED : TAKEN;
}

/* Look into the array of a client; OTHER: it has none. After TAKEN `release` is due. */
static inline Outcome look_into(PyObject *dictionary, uint64_t client, Numbers *numbers)
{
    PyObject *entry = entry_of(dictionary, client);
    if (entry == NULL)
        return PyErr_Occurred() ? RAISED : OTHER;
    if (PyObject_GetBuffer(entry, &numbers->view, PyBUF_ND | PyBUF_FORMAT) < 0)
        return RAISED;
    const Py_buffer *view = &numbers->view;
    /* An empty array lies nowhere in particular. */
    bool is_aligned = view->len == 0 || (uintptr_t)view->buf % _Alignof(uint64_t) == 0;
    if (view->format == NULL || strcmp(view->format, "Q") != 0 || view->itemsize != sizeof(uint64_t) || !is_aligned) {
        PyBuffer_Release(&numbers->view);
        PyErr_SetString(PyExc_TypeError, "an array of 'Q' is needed");
        return RAISED;
    }
    numbers->numbers = view->len == 0 ? NULL : view->buf;
    numbers->count = (size_t)view->len / sizeof(uint64_t);
    return TAKEN;
}

static inline void release(Numbers *numbers)
{
    PyBuffer_Release(&numbers->view);
}

/* How many of the sorted numbers are at most `limit`: `bisect_right`. */
static inline size_t count_up_to(const Numbers *sorted, uint64_t limit)
{
    size_t low = 0, high = sorted->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (sorted->numbers[middle] <= limit)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Whether nothing between start and stop is deleted; the place of a clock in the bounds is odd inside a range. */
static inline bool is_disjoint(const Numbers *bounds, uint64_t start, uint64_t stop)
{
    size_t place = count_up_to(bounds, start);
    return place % 2 == 0 && (place == bounds->count || stop <= bounds->numbers[place]);
}

static inline bool read_id(Reader *reader, Id *id)
{
    return read_var_uint(reader, &id->client) && read_var_uint(reader, &id->clock);
}

/* --- The part ----------------------------------------------------------------------------------------------------- */

static inline PyObject *tuple_of(const uint64_t *numbers, Py_ssize_t count)
{
    PyObject *tuple = PyTuple_New(count);
    if (tuple == NULL)
        return NULL;
    for (Py_ssize_t place = 0; place < count; place++) {
        PyObject *number = PyLong_FromUnsignedLongLong(numbers[place]);
        if (number == NULL) {
            Py_DECREF(tuple);
            return NULL;
        }
        PyTuple_SET_ITEM(tuple, place, number);
    }
    /* What can be in no cycle need not be looked at by the garbage collector, which would find out and do the same. */
    PyObject_GC_UnTrack(tuple);
    return tuple;
}

enum { PART_FIELDS = 5 };

/* The named tuple, made as it makes itself: an instance of its class with the fields in order. Their references are taken
 * over; also when one of them is NULL. */
static inline PyObject *make_part(const State *state, PyObject *const *fields)
{
    PyTypeObject *type = (PyTypeObject *)state->closed_part;
    bool is_whole = true;
    for (Py_ssize_t place = 0; place < PART_FIELDS; place++)
        is_whole = is_whole && fields[place] != NULL;
    PyObject *part = is_whole ? type->tp_alloc(type, PART_FIELDS) : NULL;
    if (part == NULL) {
        for (Py_ssize_t place = 0; place < PART_FIELDS; place++)
            Py_XDECREF(fields[place]);
        return NULL;
    }
    for (Py_ssize_t place = 0; place < PART_FIELDS; place++)
        PyTuple_SET_ITEM(part, place, fields[place]);
    PyObject_GC_UnTrack(part);
    return part;
}

#endif
