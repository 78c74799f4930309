/* The part that closing a whole update gives, made as `Closing.part` in Python makes it. What is seldom needed is left to
 * functions in Python.
 */

#include "whole_updates.h"

/* Have Python judge what JSON is not plain; false: an exception is set, the same as reading the update would raise. */
static bool check_texts(const Closing *closing)
{
    for (size_t place = 0; place < closing->texts.count; place++) {
        const Span *text = &closing->texts.spans[place];
        PyObject *verdict = PyObject_CallFunction(closing->state->check_json, "s#K", closing->reader.data + text->start,
                                                  (Py_ssize_t)(text->end - text->start),
                                                  (unsigned long long)closing->known.limits.max_any_depth);
        if (verdict == NULL)
            return false;
        Py_DECREF(verdict);
    }
    return true;
}

/* A tuple of the spans, each as its first `fields` numbers. */
static PyObject *tuple_of_spans(const Spans *spans, Py_ssize_t fields)
{
    PyObject *tuple = PyTuple_New((Py_ssize_t)spans->count);
    for (size_t place = 0; tuple != NULL && place < spans->count; place++) {
        const Span *span = &spans->spans[place];
        const uint64_t numbers[] = {span->client, span->start, span->end, span->nesting};
        PyObject *inner = tuple_of(numbers, fields);
        if (inner == NULL)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, (Py_ssize_t)place, inner);
    }
    return tuple;
}

static PyObject *ranges_of_sections(const Closing *closing)
{
    PyObject *tuple = PyTuple_New((Py_ssize_t)closing->section_count);
    for (size_t place = 0; tuple != NULL && place < closing->section_count; place++) {
        const Author *author = closing->sections[place].author;
        const uint64_t numbers[] = {author->client, author->known, author->reached};
        PyObject *inner = tuple_of(numbers, 3);
        if (inner == NULL)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, (Py_ssize_t)place, inner);
    }
    return tuple;
}

/* What is newly deleted: as it came, or, with deleted structs, sorted and merged. */
static PyObject *all_deletes(Closing *closing)
{
    Outcome outcome = TAKEN;
    if (closing->implied.count == 0)
        return tuple_of_spans(&closing->explicit, 3);
    Spans both = {0};
    for (size_t place = 0; place < closing->explicit.count && outcome == TAKEN; place++)
        outcome = add_span(&both, closing->explicit.spans[place]);
    for (size_t place = 0; place < closing->implied.count && outcome == TAKEN; place++)
        outcome = add_span(&both, closing->implied.spans[place]);
    PyObject *ranges = outcome == TAKEN ? tuple_of_spans(&both, 3) : NULL;
    PyMem_Free(both.spans);
    PyObject *merged = ranges == NULL ? NULL : PyObject_CallOneArg(closing->state->id_ranges, ranges);
    PyObject *deletes = merged == NULL ? NULL : PySequence_Tuple(merged);
    Py_XDECREF(ranges);
    Py_XDECREF(merged);
    return deletes;
}

/* The bytes, written anew without what was dropped of the delete set. */
static PyObject *write_anew(const Closing *closing)
{
    PyObject *pieces = PyTuple_New((Py_ssize_t)closing->section_count);
    for (size_t place = 0; pieces != NULL && place < closing->section_count; place++) {
        const Section *section = &closing->sections[place];
        PyObject *piece = Py_BuildValue(
            "(KKKy#)", (unsigned long long)section->author->client, (unsigned long long)section->author->known,
            (unsigned long long)section->count, (const char *)closing->reader.data + section->start,
            (Py_ssize_t)(section->stop - section->start));
        if (piece == NULL)
            Py_CLEAR(pieces);
        else
            PyTuple_SET_ITEM(pieces, (Py_ssize_t)place, piece);
    }
    PyObject *deletes = pieces == NULL ? NULL : tuple_of_spans(&closing->explicit, 3);
    PyObject *update =
        deletes == NULL ? NULL : PyObject_CallFunctionObjArgs(closing->state->write_update, pieces, deletes, NULL);
    Py_XDECREF(pieces);
    Py_XDECREF(deletes);
    return update;
}

PyObject *part_of_whole(Closing *closing, PyObject *update)
{
    if (!check_texts(closing))
        return NULL;
    if (closing->section_count == 0 && closing->explicit.count == 0)
        return PyObject_CallNoArgs(closing->state->nothing);
    PyObject *fields[PART_FIELDS] = {closing->is_whole ? Py_NewRef(update) : write_anew(closing)};
    if (fields[0] != NULL)
        fields[1] = ranges_of_sections(closing);
    if (fields[1] != NULL)
        fields[2] = all_deletes(closing);
    if (fields[2] != NULL)
        fields[3] = tuple_of_spans(&closing->runs, 4);
    if (fields[3] != NULL)
        fields[4] = PyTuple_New(0);
    return make_part(closing->state, fields);
}
