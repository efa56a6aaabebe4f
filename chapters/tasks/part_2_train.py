"""Compare two regression models on scikit-learn's diabetes data. It tracks nothing yet: see part_2.md."""

from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

# A row is a patient, and the outcome says how far the disease has progressed a year later (about 25 to 350). The rows
# have no time order, so the split shuffles them.
X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, random_state=0)

models = {
    "ridge": make_pipeline(StandardScaler(), Ridge(alpha=1.0)),
    "boosting": GradientBoostingRegressor(n_estimators=100, learning_rate=0.1, random_state=0),
}
for name, model in models.items():
    model.fit(X_train, y_train)
    error = mean_absolute_error(y_test, model.predict(X_test))
    print(f"{name}: mean absolute error {error:.1f} on {len(X_test)} test rows")
