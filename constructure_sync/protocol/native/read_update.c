/* `protocol/update_reader.py`, compiled: the strict reader of whole updates.
 *
 * What is taken, and why, is said there. Only what is well-formed and within the limits is read here; everything else is
 * handed to the function in Python, which reads it once more and says what is wrong. So both refuse alike, whatever it
 * is, and a refusal costs no more than a second reading. Nothing is trusted: no count reserves memory, plain values nest
 * as deep as the limits say, and no number that was read is added to another one before it is known to be below 2^53.
 */

#include "module.h"
#include "reader.h"

/* The section that is being read. */
typedef struct {
    uint64_t client;
    uint64_t clock; /* of the next struct */
} Section;

typedef struct {
    bool is_there;
    uint64_t client, clock;
} Reference;

/* A struct as `update_reader.Struct` describes it. */
typedef struct {
    int kind;
    uint64_t clock, end;
    size_t start, content, stop;
    Reference origin, right_origin, parent;
} Struct;

/* The objects of a section that more than one of its structs refers to. */
typedef struct {
    PyObject *client;
    PyObject *clock;    /* of the next struct */
    PyObject *position; /* of the next struct */
} Shared;

/* One reading. Where a function below gives false or NULL, an exception is set or the update is refused. */
typedef struct {
    const State *state;
    Reader reader;
    Limits limits;
    uint64_t structs, subdocs; /* read until now */
} Reading;

/* --- Content ------------------------------------------------------------------------------------------------------ */

/* The content of an item, and its length in clocks. */
static bool read_content(Reading *reading, int kind, uint64_t *length)
{
    Reader *reader = &reading->reader;
    Content content;
    if (!read_item_content(reader, kind, reading->limits.max_any_depth, &content))
        return false;
    *length = content.length;
    reading->subdocs += kind == DOC;
    if (!content.has_json)
        return true;
    PyObject *verdict =
        PyObject_CallFunction(reading->state->check_json, "s#K", reader->data + content.json_start,
                              (Py_ssize_t)content.json_size, (unsigned long long)reading->limits.max_any_depth);
    Py_XDECREF(verdict);
    return verdict != NULL;
}

/* --- Structs ------------------------------------------------------------------------------------------------------ */

/* An id that a struct refers to: of its own client only what lies before it. */
static bool read_reference(Reader *reader, const Section *section, Reference *reference)
{
    reference->is_there = true;
    return read_var_uint(reader, &reference->client) && read_var_uint(reader, &reference->clock) &&
           (reference->client != section->client || reference->clock < section->clock);
}

/* Where an item without origins hangs: a root's name or the id of an item, then perhaps a key. */
static bool read_parent(Reader *reader, const Section *section, bool has_key, Reference *parent)
{
    uint8_t is_root;
    if (!read_byte(reader, &is_root) || is_root > 1)
        return false;
    if (!(is_root ? skip_string(reader) : read_reference(reader, section, parent)))
        return false;
    return !has_key || skip_string(reader);
}

static bool read_references(Reader *reader, const Section *section, int info, Struct *read)
{
    if (info & HAS_ORIGIN && !read_reference(reader, section, &read->origin))
        return false;
    if (info & HAS_RIGHT_ORIGIN)
        return read_reference(reader, section, &read->right_origin);
    return info & HAS_ORIGIN || read_parent(reader, section, info & HAS_PARENT_KEY, &read->parent);
}

/* The next struct of a section, which is moved on behind it. */
static bool read_struct(Reading *reading, Section *section, Struct *read)
{
    Reader *reader = &reading->reader;
    uint8_t info;
    uint64_t length;
    bool is_read;
    *read = (Struct){.clock = section->clock, .start = reader->position};
    if (!read_byte(reader, &info))
        return false;
    read->kind = info & REFERENCE;
    if (read->kind == GC || read->kind == SKIP) {
        read->content = reader->position;
        is_read = info == read->kind && read_bare_length(reader, &length);
    } else {
        if (!read_references(reader, section, info, read))
            return false;
        read->content = reader->position;
        is_read = read_content(reading, read->kind, &length);
    }
    if (!is_read)
        return false;
    section->clock += length;
    read->end = section->clock;
    read->stop = reader->position;
    return section->clock <= MAX_CLOCK;
}

/* --- Their objects ------------------------------------------------------------------------------------------------ */

static PyObject *number_of(uint64_t number)
{
    return number <= LONG_MAX ? PyLong_FromLong((long)number) : PyLong_FromUnsignedLongLong(number);
}

/* Fill a new tuple with objects, whose references it takes over; also when it, or one of them, is NULL. */
static PyObject *filled(PyObject *tuple, PyObject *const *fields, Py_ssize_t count)
{
    bool is_whole = tuple != NULL;
    for (Py_ssize_t place = 0; place < count; place++)
        is_whole = is_whole && fields[place] != NULL;
    for (Py_ssize_t place = 0; place < count; place++) {
        if (is_whole)
            PyTuple_SET_ITEM(tuple, place, fields[place]);
        else
            Py_XDECREF(fields[place]);
    }
    if (!is_whole)
        Py_CLEAR(tuple);
    return tuple;
}

/* The same for an instance of a named tuple. */
static PyObject *named_tuple(PyObject *type, PyObject *const *fields, Py_ssize_t count)
{
    return filled(((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, count), fields, count);
}

/* Let the garbage collector pass over what holds only numbers, and tuples of numbers: it can be in no cycle. */
static PyObject *without_cycles(PyObject *tuple)
{
    if (tuple != NULL)
        PyObject_GC_UnTrack(tuple);
    return tuple;
}

static PyObject *id_of(const Reference *reference, const Section *section, const Shared *shared)
{
    if (!reference->is_there)
        return Py_NewRef(Py_None);
    bool is_own = reference->client == section->client;
    PyObject *fields[] = {is_own ? Py_NewRef(shared->client) : number_of(reference->client),
                          number_of(reference->clock)};
    return without_cycles(filled(PyTuple_New(2), fields, 2));
}

static PyObject *struct_of(const Reading *reading, const Struct *read, const Section *section, Shared *shared)
{
    PyObject *end = number_of(read->end), *stop = number_of(read->stop);
    PyObject *fields[] = {
        PyLong_FromLong(read->kind),
        shared->clock,
        Py_XNewRef(end),
        shared->position,
        number_of(read->content),
        Py_XNewRef(stop),
        id_of(&read->origin, section, shared),
        id_of(&read->right_origin, section, shared),
        id_of(&read->parent, section, shared),
    };
    /* The next one begins where this one ends. */
    shared->clock = end;
    shared->position = stop;
    return without_cycles(named_tuple(reading->state->struct_type, fields, sizeof fields / sizeof *fields));
}

/* Append an object, whose reference is taken over; also when it is NULL. */
static bool append(PyObject *list, PyObject *object)
{
    bool is_appended = object != NULL && PyList_Append(list, object) == 0;
    Py_XDECREF(object);
    return is_appended;
}

/* --- Sections ----------------------------------------------------------------------------------------------------- */

static bool read_structs(Reading *reading, Section *section, uint64_t count, PyObject *client, PyObject *structs)
{
    Shared shared = {client, number_of(section->clock), number_of(reading->reader.position)};
    bool is_read = true;
    while (is_read && count--) {
        Struct read;
        is_read = read_struct(reading, section, &read) && append(structs, struct_of(reading, &read, section, &shared));
    }
    Py_XDECREF(shared.clock);
    Py_XDECREF(shared.position);
    return is_read && reading->subdocs <= reading->limits.max_subdocs;
}

/* Make a set for so many clients, of which none may come twice; for one, which cannot, NULL. */
static bool make_seen(uint64_t clients, PyObject **seen)
{
    *seen = clients > 1 ? PySet_New(NULL) : NULL;
    return clients <= 1 || *seen != NULL;
}

/* Note a client; false also when it was noted before. */
static bool note(PyObject *seen, PyObject *client)
{
    if (seen == NULL || client == NULL)
        return client != NULL;
    Py_ssize_t before = PySet_GET_SIZE(seen);
    return PySet_Add(seen, client) == 0 && PySet_GET_SIZE(seen) > before;
}

/* The next section. seen: the clients of those before it. */
static PyObject *read_section(Reading *reading, PyObject *seen)
{
    Reader *reader = &reading->reader;
    Section section;
    uint64_t count;
    if (!read_var_uint(reader, &count) || !read_var_uint(reader, &section.client) ||
        !read_var_uint(reader, &section.clock))
        return NULL;
    if (count == 0 || count * 2 > bytes_left(reader))
        return NULL;
    reading->structs += count;
    if (reading->structs > reading->limits.max_structs)
        return NULL;
    PyObject *client = number_of(section.client), *structs = PyList_New(0);
    if (structs != NULL && note(seen, client) && read_structs(reading, &section, count, client, structs)) {
        PyObject *fields[] = {client, structs};
        return named_tuple(reading->state->section, fields, 2);
    }
    Py_XDECREF(client);
    Py_XDECREF(structs);
    return NULL;
}

static bool read_sections(Reading *reading, PyObject *sections)
{
    Reader *reader = &reading->reader;
    PyObject *seen;
    uint64_t count;
    if (!read_var_uint(reader, &count) || count * 5 > bytes_left(reader) || count > reading->limits.max_clients)
        return false;
    bool is_read = make_seen(count, &seen);
    while (is_read && count--)
        is_read = append(sections, read_section(reading, seen));
    Py_XDECREF(seen);
    return is_read;
}

/* --- The delete set ----------------------------------------------------------------------------------------------- */

static bool read_range(Reader *reader, PyObject *client, PyObject *ranges)
{
    uint64_t start, length;
    if (!read_var_uint(reader, &start) || !read_var_uint(reader, &length) || length == 0 || start + length > MAX_CLOCK)
        return false;
    PyObject *fields[] = {Py_NewRef(client), number_of(start), number_of(start + length)};
    return append(ranges, without_cycles(filled(PyTuple_New(3), fields, 3)));
}

/* The ranges of one client. is_tidy: becomes false when there are none. */
static bool read_ranges(Reading *reading, PyObject *client, PyObject *ranges, bool *is_tidy)
{
    Reader *reader = &reading->reader;
    uint64_t count;
    if (!read_var_uint(reader, &count) || count * 2 > bytes_left(reader))
        return false;
    if ((uint64_t)PyList_GET_SIZE(ranges) + count > reading->limits.max_delete_ranges)
        return false;
    *is_tidy = *is_tidy && count > 0;
    while (count--)
        if (!read_range(reader, client, ranges))
            return false;
    return true;
}

/* The ranges of the next client. seen: those before it. */
static bool read_client_ranges(Reading *reading, PyObject *seen, PyObject *ranges, bool *is_tidy)
{
    uint64_t id;
    PyObject *client = read_var_uint(&reading->reader, &id) ? number_of(id) : NULL;
    bool is_read = note(seen, client) && read_ranges(reading, client, ranges, is_tidy);
    Py_XDECREF(client);
    return is_read;
}

static bool read_deletes(Reading *reading, PyObject *ranges, bool *is_tidy)
{
    Reader *reader = &reading->reader;
    PyObject *seen;
    uint64_t count;
    if (!read_var_uint(reader, &count) || count * 2 > bytes_left(reader))
        return false;
    bool is_read = make_seen(count, &seen);
    *is_tidy = true;
    while (is_read && count--)
        is_read = read_client_ranges(reading, seen, ranges, is_tidy);
    Py_XDECREF(seen);
    return is_read;
}

/* --- The function ------------------------------------------------------------------------------------------------- */

/* A whole update as `ParsedUpdate`. */
static PyObject *read_whole(Reading *reading, PyObject *data)
{
    PyObject *sections = PyList_New(0), *deletes = PyList_New(0);
    bool is_tidy, is_read = sections != NULL && deletes != NULL && read_sections(reading, sections) &&
                            read_deletes(reading, deletes, &is_tidy) && bytes_left(&reading->reader) == 0;
    if (is_read) {
        PyObject *fields[] = {Py_NewRef(data), sections, deletes, PyBool_FromLong(is_tidy)};
        return named_tuple(reading->state->parsed_update, fields, sizeof fields / sizeof *fields);
    }
    Py_XDECREF(sections);
    Py_XDECREF(deletes);
    return NULL;
}

static bool read_limit(PyObject *limits, const char *name, uint64_t *limit)
{
    PyObject *value = PyObject_GetAttrString(limits, name);
    if (value == NULL)
        return false;
    *limit = PyLong_AsUnsignedLongLong(value);
    Py_DECREF(value);
    return !PyErr_Occurred();
}

/* Read the limits; false when they are beyond what is followed here. */
static bool read_limits(PyObject *limits, Limits *read)
{
    if (read_limit(limits, "max_structs", &read->max_structs) && read_limit(limits, "max_clients", &read->max_clients) &&
        read_limit(limits, "max_delete_ranges", &read->max_delete_ranges) &&
        read_limit(limits, "max_subdocs", &read->max_subdocs) && read_limit(limits, "max_depth", &read->max_depth) &&
        read_limit(limits, "max_any_depth", &read->max_any_depth))
        return read->max_any_depth <= DEEPEST_ANY;
    PyErr_Clear();
    return false;
}

/* Limits never change, and nearly every call comes with those of the one before: they are read when others come. */
bool take_limits(State *state, PyObject *limits)
{
    Limits read;
    if (limits == state->limits_seen)
        return true;
    if (!read_limits(limits, &read))
        return false;
    state->limits = read;
    Py_XSETREF(state->limits_seen, Py_NewRef(limits));
    return true;
}

PyObject *read_update(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    State *state = PyModule_GetState(module);
    if ((count == 1 || count == 2) && PyBytes_Check(arguments[0]) &&
        take_limits(state, count == 2 ? arguments[1] : state->default_limits)) {
        PyObject *data = arguments[0];
        Reading reading = {.state = state,
                           .reader = reader_of(PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data)),
                           .limits = state->limits};
        PyObject *parsed = read_whole(&reading, data);
        if (parsed != NULL || PyErr_Occurred())
            return parsed;
    }
    return PyObject_Vectorcall(state->read_update, arguments, (size_t)count, NULL);
}
