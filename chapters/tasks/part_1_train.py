"""Train a classifier on scikit-learn's breast cancer data. It tracks nothing yet: see part_1.md."""

import matplotlib.pyplot as plt
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import RocCurveDisplay, brier_score_loss, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

C = 0.1  # the smaller C, the smaller the weights

# A row is a patient, and the outcome is 1 for a benign tumour. The rows have no time order, so the split shuffles them.
X, y = load_breast_cancer(return_X_y=True, as_frame=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)

model = make_pipeline(StandardScaler(), LogisticRegression(C=C))
model.fit(X_train, y_train)

probability = model.predict_proba(X_test)[:, 1]
auc = roc_auc_score(y_test, probability)
brier = brier_score_loss(y_test, probability)
print(f"C={C}: AUC {auc:.3f}, Brier score {brier:.3f} on {len(X_test)} test rows")

figure, ax = plt.subplots()
RocCurveDisplay.from_predictions(y_test, probability, ax=ax, plot_chance_level=True)
ax.set_title("Benign or malignant: the ROC curve on the test rows")
