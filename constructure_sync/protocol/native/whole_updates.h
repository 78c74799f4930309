/* What is read of an update by `whole_updates.c`, out of which `whole_part.c` makes the part.
 */

#ifndef CONSTRUCTURE_WHOLE_UPDATES_H
#define CONSTRUCTURE_WHOLE_UPDATES_H

#include "closing.h"

enum {
    MOST_AUTHORS = 32,     /* clients that one update may refer to here */
    DEEPEST_DEPTH = 0x7FFF /* a nesting has 16 bits */
};

/* A stretch of the clocks of one client; or, without one, of the bytes. Not every use has a nesting. */
typedef struct {
    uint64_t client, start, end, nesting;
} Span;

typedef struct {
    Span *spans;
    size_t count, room;
} Spans;

/* A client that has a section or is referred to. */
typedef struct {
    uint64_t client;
    uint64_t known;   /* the first clock that was not known before */
    uint64_t reached; /* the first clock that neither was known nor has been read */
    bool has_runs, has_section;
    Numbers runs;            /* of what was known, if there are any */
    size_t first, run_count; /* with a section: the runs of that, in `Closing.runs` */
} Author;

/* The section of a client as it lies in the update. */
typedef struct {
    const Author *author;
    uint64_t count;     /* of structs */
    size_t start, stop; /* of the bytes of its structs */
} Section;

/* One update being closed. */
typedef struct {
    State *state;
    Reader reader;
    Known known;
    uint64_t structs, subdocs, ranges; /* read until now */
    bool is_whole;                     /* nothing of the update was dropped */
    Author authors[MOST_AUTHORS];
    size_t author_count;
    Section sections[MOST_AUTHORS];
    size_t section_count;
    Spans runs;              /* how deep the structs hang */
    Spans explicit, implied; /* what is newly deleted: by the delete set, by structs without content */
    Spans texts;             /* JSON that is still to be judged */
    Spans owners;            /* the clients of the delete set */
} Closing;

/* Append a span; never OTHER. */
static inline Outcome add_span(Spans *to, Span span)
{
    if (to->count == to->room) {
        size_t room = to->room == 0 ? 16 : to->room * 2;
        Span *grown = PyMem_Realloc(to->spans, room * sizeof *grown);
        if (grown == NULL) {
            PyErr_NoMemory();
            return RAISED;
        }
        to->spans = grown;
        to->room = room;
    }
    to->spans[to->count++] = span;
    return TAKEN;
}

/* Give the part, or NULL: an exception is set. Python is called, so no memory of what is known may be held. */
PyObject *part_of_whole(Closing *closing, PyObject *update);

#endif
