/*
 * The module: types, constants, and silence on stderr.
 * SPDX-License-Identifier: Apache-2.0
 */

#include "decoder.h"

#include <libavutil/log.h>

static PyObject *list_codecs(PyObject *module, PyObject *none)
{
    PyObject *names = PyList_New(0);
    const AVCodec *codec;
    void *state = NULL;

    while (names && (codec = av_codec_iterate(&state))) {
        PyObject *name;

        if (!av_codec_is_decoder(codec) || codec->type != AVMEDIA_TYPE_VIDEO)
            continue;
        name = PyUnicode_FromString(codec->name);
        if (!name || PyList_Append(names, name) < 0)
            Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static PyMethodDef module_methods[] = {
    { "list_codecs", list_codecs, METH_NOARGS, "list_codecs() -> names of the decoders" },
    { NULL },
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name    = "cv_reader_native._decoder",
    .m_doc     = "FFmpeg's decoders, with motion, residual, bits and quantiser of each picture.",
    .m_size    = -1,
    .m_methods = module_methods,
};

PyMODINIT_FUNC PyInit__decoder(void)
{
    PyObject *module = PyModule_Create(&module_definition);

    if (!module)
        return NULL;
    /* Errors reach the caller as counts and flags; libraries do not write to stderr. */
    av_log_set_level(AV_LOG_QUIET);
    if (PyModule_AddType(module, &DecoderType) < 0 || PyModule_AddType(module, &PictureType) < 0 ||
        PyModule_AddType(module, &MemoryType) < 0 ||
        PyModule_AddIntConstant(module, "DAMAGED", CODEC_SIGNALS_DAMAGED) < 0 ||
        PyModule_AddIntConstant(module, "INTERLACED", CODEC_SIGNALS_INTERLACED) < 0 ||
        PyModule_AddIntConstant(module, "MISSING_REF", CODEC_SIGNALS_MISSING_REF) < 0 ||
        PyModule_AddIntConstant(module, "FAR_REF", CODEC_SIGNALS_FAR_REF) < 0 ||
        PyModule_AddStringConstant(module, "BUILD_ID", BUILD_ID) < 0 ||
        PyModule_AddStringConstant(module, "FFMPEG_VERSION", av_version_info()) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
