"""Train three models that tell whether a digit is an eight. It registers nothing yet: see part_3.md."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

# A row is a digit as 64 grey values (0 to 16), and the outcome is 1 for an eight. The rows come writer by
# writer, so the split doesn't shuffle: other people wrote the held-out rows.
X, digit = load_digits(return_X_y=True, as_frame=True)
y = (digit == 8).astype(int)
X_train, X_test, y_train, y_test = X[:1029], X[1029:], y[:1029], y[1029:]

models = {
    "naive Bayes": GaussianNB(),
    "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    "XGBoost": XGBClassifier(n_estimators=100, max_depth=3, random_state=0, n_jobs=1),
}
base_rate = brier_score_loss(y_test, np.full(len(y_test), y_train.mean()))
print(f"always the base rate: Brier score {base_rate:.3f} on {len(y_test)} held-out rows")
for name, model in models.items():
    probability = model.fit(X_train, y_train).predict_proba(X_test)[:, 1]
    print(f"{name}: Brier score {brier_score_loss(y_test, probability):.3f}")
