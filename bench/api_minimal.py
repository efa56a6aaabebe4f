"""The least that an answer over HTTP takes: parse, native predict, write. The measure for the inference API."""

import json
import os

import mlflow
import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

model = mlflow.pyfunc.load_model(os.environ["BENCH_MODEL"]).unwrap_python_model()
app = FastAPI()


@app.get("/health")
async def health():
    return JSONResponse({})


@app.post("/predict")
async def predict(request: Request):
    rows = json.loads(await request.body())["rows"]
    probability = model.probability(np.array([list(row.values()) for row in rows]))
    return JSONResponse({"predictions": [{"probability": p, "decision": int(p > 0.25)} for p in probability.tolist()]})
