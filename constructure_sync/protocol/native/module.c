/* The table of the extension module, and what it holds on to. */

#include "module.h"

#define FUNCTION(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, NULL}

static PyMethodDef functions[] = {
    FUNCTION(close_short),
    FUNCTION(close_whole),
    FUNCTION(read_update),
    {NULL, NULL, 0, NULL},
};

/* Each of the next two fills one place of the state; false: an exception is set. */
static bool find(PyObject **place, const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    if (module == NULL)
        return false;
    *place = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    return *place != NULL;
}

static bool intern(PyObject **place, const char *name)
{
    *place = PyUnicode_InternFromString(name);
    return *place != NULL;
}

static int fill_state(PyObject *module)
{
    State *state = PyModule_GetState(module);
    const char *reader = "constructure_sync.protocol.update_reader";
    bool is_filled = find(&state->closed_part, "constructure_sync.protocol.closed_part", "ClosedPart") &&
                     intern(&state->bounds, "_bounds") && intern(&state->max_depth, "max_depth") &&
                     intern(&state->max_any_depth, "max_any_depth") &&
                     intern(&state->max_delete_ranges, "max_delete_ranges") &&
                     find(&state->struct_type, reader, "Struct") && find(&state->section, reader, "Section") &&
                     find(&state->parsed_update, reader, "ParsedUpdate") &&
                     find(&state->default_limits, reader, "DEFAULT_LIMITS") &&
                     find(&state->read_update, reader, "read_update") && find(&state->check_json, reader, "check_json") &&
                     find(&state->write_update, "constructure_sync.protocol.update_cut", "write_update") &&
                     find(&state->nothing, "constructure_sync.protocol.closed_part", "nothing") &&
                     find(&state->id_ranges, "constructure_sync.protocol.id_ranges", "IdRanges");
    return is_filled ? 0 : -1;
}

/* Every object of the state, so that none is forgotten by one of the two below. */
#define FOR_EACH_OBJECT(DO)                                                                                           \
    DO(closed_part) DO(bounds) DO(max_depth) DO(max_any_depth) DO(max_delete_ranges) DO(struct_type) DO(section)       \
    DO(parsed_update) DO(default_limits) DO(read_update) DO(check_json) DO(write_update) DO(nothing)               \
    DO(id_ranges) DO(limits_seen)

static int traverse_state(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
#define VISIT(object) Py_VISIT(state->object);
    FOR_EACH_OBJECT(VISIT)
    return 0;
}

static int clear_state(PyObject *module)
{
    State *state = PyModule_GetState(module);
#define CLEAR(object) Py_CLEAR(state->object);
    FOR_EACH_OBJECT(CLEAR)
    return 0;
}

static void free_state(void *module)
{
    clear_state(module);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, fill_state},
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "constructure_sync.protocol._native",
    .m_doc = "The readers of updates, compiled.",
    .m_size = sizeof(State),
    .m_methods = functions,
    .m_slots = slots,
    .m_traverse = traverse_state,
    .m_clear = clear_state,
    .m_free = free_state,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
